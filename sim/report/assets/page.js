"use strict";
(function () {
  const setup = JSON.parse(document.getElementById("setup").textContent);
  const keys = new Set(setup.colorKeys);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const slim = matchMedia("(max-width: 699px)");
  let printing = false;

  // Only attributes that hold colours are touched: a user's string that looks like one stays as it is.
  function recolor(node, key) {
    if (typeof node === "string") {
      const other = keys.has(key) && setup.colors[node.toLowerCase()];
      return other || node;
    }
    if (Array.isArray(node)) return node.map(item => recolor(item, key));
    if (node && typeof node === "object") {
      const copy = {};
      for (const name of Object.keys(node)) copy[name] = recolor(node[name], name);
      return copy;
    }
    return node;
  }

  function merge(base, extra) {
    const out = Object.assign({}, base);
    for (const [name, value] of Object.entries(extra)) {
      const both = value && typeof value === "object" && !Array.isArray(value) && out[name];
      out[name] = both ? merge(out[name], value) : value;
    }
    return out;
  }

  // On a phone names at the ends of curves give way to a legend, and margins shrink.
  function slimmed(figure) {
    const layout = merge(figure.layout, figure.slim);
    const notes = layout.annotations || [];
    const direct = notes.some(note => note.name === "direct");
    layout.annotations = notes.filter(note => note.name !== "direct" && note.name !== "wide");
    const data = direct ? figure.data.map(trace =>
      trace.showlegend === false && trace.hoverinfo !== "skip" && /\(n [\d,]+\)$/.test(trace.name || "")
        ? Object.assign({}, trace, {showlegend: true}) : trace) : figure.data;
    if (direct) layout.showlegend = true;
    const margin = Object.assign({}, layout.margin, {l: 8, r: 8});
    if (direct) {
      layout.legend = merge(layout.legend || {}, {orientation: "h", x: 0, y: -0.22, yanchor: "top", yref: "paper"});
      layout.height = (layout.height || 420) + 24 * Math.min(6, data.filter(t => t.showlegend).length);
    }
    layout.margin = margin;
    layout.dragmode = false;
    return {data, layout};
  }

  function draw(element) {
    const figure = setup.figures[element.dataset.figure];
    const mode = dark.matches && !printing ? "dark" : "light";
    let {data, layout} = slim.matches && !printing ? slimmed(figure) : figure;
    if (mode === "dark") {
      data = recolor(data, "");
      layout = recolor(layout, "");
    } else {
      data = JSON.parse(JSON.stringify(data));
      layout = JSON.parse(JSON.stringify(layout));
    }
    layout.template = setup.templates[mode];
    layout.autosize = !printing;
    if (printing) layout.width = 680;
    element.style.minHeight = layout.height + "px";
    return Plotly.react(element, data, layout, {
      responsive: true,
      displaylogo: false,
      displayModeBar: slim.matches ? false : "hover",
      modeBarButtons: [["toImage", "resetScale2d"]],
      toImageButtonOptions: {format: "svg", filename: element.dataset.figure},
    });
  }

  const elements = Array.from(document.querySelectorAll("[data-figure]"));
  const drawAll = () => elements.forEach(draw);
  dark.addEventListener("change", drawAll);
  slim.addEventListener("change", drawAll);
  // On paper nothing can be unfolded, so what is folded is printed open.
  let unfolded = [];
  addEventListener("beforeprint", () => {
    printing = true;
    unfolded = Array.from(document.querySelectorAll("details.fold:not([open])"));
    unfolded.forEach(fold => { fold.open = true; });
    drawAll();
  });
  addEventListener("afterprint", () => {
    printing = false;
    unfolded.forEach(fold => { fold.open = false; });
    drawAll();
  });
  drawAll();
  document.documentElement.dataset.figures = "drawn";
})();
