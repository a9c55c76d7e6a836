// Draws the interactive charts over their still pictures and turns the sizes into tabs. Without scripts the page shows everything, still.
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const data = JSON.parse(document.getElementById("data").textContent);
  const charts = new Map(data.sections.flatMap((s) => s.charts.map((c) => [c.id, c])));
  const drawn = new Map();

  const colour = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const count = (v) => {
    if (v == null) return "–";
    for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (Math.abs(v) >= size) return +(v / size).toFixed(2) + " " + unit;
    return String(+v.toPrecision(4));
  };
  const score = (v) => (v == null ? "–" : Math.abs(v) >= 1e5 ? count(v) : String(+v.toPrecision(4)).replace("-", "−"));

  function draw(figure) {
    const chart = charts.get(figure.dataset.chart);
    const plot = figure.querySelector(".plot");
    if (!chart || !plot.clientWidth) return;
    drawn.get(chart.id)?.destroy();
    const lines = chart.lines;
    const last = Math.max(...chart.series.map((s) => s.x[s.x.length - 1]));
    const joined = uPlot.join([
      ...chart.series.map((s) => [s.x, s.y]),
      ...lines.map((line) => [[0, last], [line.value, line.value]]),
    ]);
    const many = chart.series.some((s) => s.css === "many");
    const series = chart.series.map((s) => ({
      label: s.name,
      class: s.css === "many" || (chart.small && chart.series.length > 1 && s.css !== "mean") ? "hidden-label" : null,
      spanGaps: false,
      stroke: colour(s.css),
      width: s.css === "mean" ? (chart.small ? 2 : 2.5) : chart.series.length > 1 && s.css !== "many" ? 1.5 : many ? 1 : 2,
      alpha: s.css === "many" ? 0.45 : 1,
      points: { show: s.x.length < 40 && !many, size: 5, fill: colour(s.css) },
      value: (u, v) => score(v),
    }));
    for (const line of lines)
      series.push({
        label: line.name,
        class: chart.small ? "hidden-label" : null,
        stroke: colour(line.css),
        width: 1.5,
        dash: [6, 4],
        points: { show: false },
        value: () => score(line.value),
      });
    const axis = {
      stroke: colour("muted"),
      font: "12px " + getComputedStyle(document.body).getPropertyValue("--sans"),
      grid: { stroke: colour("rule"), width: 1 },
      ticks: { show: false },
    };
    drawn.set(
      chart.id,
      new uPlot(
        {
          width: plot.clientWidth,
          height: chart.small ? 150 : 300,
          scales: { x: { time: false, range: (u, a, b) => [Math.min(0, a), b === a ? a + 1 : b] } },
          series: [{ label: data.x, value: (u, v) => count(v) }, ...series],
          axes: [
            { ...axis, values: (u, vs) => vs.map(count), space: 70, size: 30 },
            { ...axis, values: (u, vs) => vs.map(score), size: 52, space: chart.small ? 34 : 44 },
          ],
          cursor: { drag: { x: true, y: false }, points: { size: 7 } },
          legend: { show: true },
        },
        joined,
        plot,
      ),
    );
    figure.classList.add("drawn");
  }
  const drawAll = () => document.querySelectorAll("figure[data-chart]").forEach((f) => f.offsetParent && draw(f));

  const sections = [...document.querySelectorAll("section.size")];
  const links = [...document.querySelectorAll("nav.sizes a")];
  function open(id) {
    if (!sections.some((s) => s.id === id)) id = sections[0].id;
    for (const s of sections) s.hidden = s.id !== id;
    for (const a of links) {
      if (a.dataset.section === id) a.setAttribute("aria-current", "true");
      else a.removeAttribute("aria-current");
    }
    drawAll();
  }
  for (const a of links)
    a.addEventListener("click", (event) => {
      event.preventDefault();
      history.replaceState(null, "", "#" + a.dataset.section);
      open(a.dataset.section);
    });
  addEventListener("hashchange", () => open(location.hash.slice(1)));
  open(location.hash.slice(1));

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    drawAll();
  });
})();
