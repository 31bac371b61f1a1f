"""How a trace becomes a generator: laws by EM, clients and windows, and how good the fit is."""
