"use strict";
(() => {
  const root = document.documentElement;
  const toggle = document.getElementById("theme");
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches);
  const name = () => { toggle.textContent = isDark() ? "Light" : "Dark"; };
  toggle.hidden = false;
  toggle.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; name(); });
  prefersDark.addEventListener("change", name);
  name();

  const short = (value) => {
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e7) return value.toLocaleString("en");
    if (size !== 0 && (size < 1e-4 || size >= 1e7)) return value.toExponential(2);
    return Number(value.toPrecision(4)).toLocaleString("en", { maximumFractionDigits: 8 });
  };
  const nearest = (steps, step) => {
    let low = 0, high = steps.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (steps[middle] <= step) low = middle; else high = middle;
    }
    return Math.abs(steps[low] - step) <= Math.abs(steps[high] - step) ? low : high;
  };

  const data = JSON.parse(document.getElementById("data").textContent);
  for (const chart of data.charts) {
    const figure = document.getElementById(chart.id);
    const svg = figure.querySelector("svg.chart");
    const cursor = svg.querySelector(".cursor");
    const readout = figure.querySelector(".readout");
    const atRest = [...readout.childNodes];
    const plot = chart.plot;
    const show = (event) => {
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) * plot.width / box.width;
      const share = Math.min(1, Math.max(0, (x - plot.left) / (plot.right - plot.left)));
      const step = plot.low + share * (plot.high - plot.low);
      const found = chart.lines.map((line) => ({ line, at: nearest(line.steps, step) }));
      const closest = found.reduce((a, b) =>
        Math.abs(b.line.steps[b.at] - step) < Math.abs(a.line.steps[a.at] - step) ? b : a);
      const shown = closest.line.steps[closest.at];
      const left = plot.left + (shown - plot.low) / (plot.high - plot.low) * (plot.right - plot.left);
      cursor.setAttribute("x1", left);
      cursor.setAttribute("x2", left);
      cursor.setAttribute("visibility", "visible");
      readout.replaceChildren(`${chart.across} ${Math.round(shown).toLocaleString("en")}`);
      for (const { line, at } of found) {
        const value = document.createElement("b");
        value.textContent = short(line.values[at]);
        const range = line.lowest.length ? ` (${short(line.lowest[at])} to ${short(line.highest[at])})` : "";
        const where = line.steps[at] === shown ? "" : ` (${chart.across} ${Math.round(line.steps[at]).toLocaleString("en")})`;
        readout.append(` \u00b7 ${line.name} `, value, range, where);
      }
    };
    const rest = () => { cursor.setAttribute("visibility", "hidden"); readout.replaceChildren(...atRest); };
    svg.addEventListener("pointermove", show);
    svg.addEventListener("pointerdown", show);
    svg.addEventListener("pointerleave", rest);
  }
})();
