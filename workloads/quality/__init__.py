"""Is an answer right? Difficulty of queries, accuracy by model and benchmark, verifiers' scores.

``spec`` says what a scenario may write, ``published`` holds figures with their sources, ``judge`` decides,
``exact`` gives the same in closed form where there is one, ``fit`` finds parameters from measured rows.
"""
