// Draws the interactive charts over their still pictures and turns the sizes into tabs. Without scripts the page shows everything, still.
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const data = JSON.parse(document.getElementById("data").textContent);
  const charts = new Map(data.sections.flatMap((s) => s.charts.map((c) => [c.id, c])));
  const drawn = new Map();

  const colour = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const shade = (name) => colour(name) + "2e"; // #rrggbb and its opacity
  const count = (v) => {
    if (v == null) return "–";
    for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (Math.abs(v) >= size) return +(v / size).toFixed(2) + " " + unit;
    return String(+v.toPrecision(4));
  };
  const score = (v) => (v == null ? "–" : Math.abs(v) >= 1e5 ? count(v) : String(+v.toPrecision(4)).replace("-", "−"));

  let axis = "x"; // "x": frames or steps; "h": hours
  const words = { x: data.x, h: "hours" };
  const hours = (v) => (v == null ? "–" : v < 0.1 && v > 0 ? +(v * 60).toFixed(1) + " min" : +v.toPrecision(3) + " h");
  const along = (v) => (axis === "h" ? hours(v) : count(v));
  const hasAxis = (s) => s[axis] && s[axis].length;

  function draw(figure) {
    const chart = charts.get(figure.dataset.chart);
    const plot = figure.querySelector(".plot");
    if (!chart || !plot.clientWidth) return;
    drawn.get(chart.id)?.destroy();
    const shown = chart.series.filter(hasAxis);
    const lines = chart.lines;
    const last = Math.max(...shown.map((s) => s[axis][s[axis].length - 1]));
    const tables = [], series = [], bands = [];
    const many = shown.some((s) => s.css === "many");
    const small = (s) => chart.small && shown.length > 1 && s.css !== "mean";
    for (const s of shown) {
      const index = series.length + 1;
      const banded = s.lo && s.hi;
      tables.push([s[axis], s.y]);
      series.push({
        label: s.name,
        class: s.css === "many" || small(s) ? "hidden-label" : null,
        stroke: colour(s.css),
        width: s.css === "mean" ? (chart.small ? 2 : 2.5) : shown.length > 1 && s.css !== "many" ? 1.5 : many ? 1 : 2,
        dash: s.css === "reference" ? [2, 4] : undefined,
        alpha: s.css === "many" ? 0.45 : 1,
        points: { show: s.css === "reference" || (s[axis].length < 40 && !many), size: 5, fill: colour(s.css) },
        value: (u, v, si, i) =>
          v == null || !banded ? score(v) : `${score(v)} (${s.band} ${s.band.startsWith("±") ? score((u.data[index + 2][i] - u.data[index + 1][i]) / 2) : score(u.data[index + 1][i]) + " to " + score(u.data[index + 2][i])})`,
      });
      if (banded) {
        const edge = { class: "hidden-label", stroke: "transparent", width: 0, points: { show: false } };
        tables.push([s[axis], s.lo], [s[axis], s.hi]);
        series.push({ ...edge, label: s.name + " low" }, { ...edge, label: s.name + " high" });
        bands.push({ series: [index + 2, index + 1], fill: shade(s.css) });
      }
    }
    for (const line of lines) {
      tables.push([[0, last], [line.value, line.value]]);
      series.push({
        label: line.name,
        class: chart.small && line.css !== "human" ? "hidden-label" : null,
        auto: !line.outside, // what is far away flattens no curve: it is marked at the edge
        stroke: colour(line.css),
        width: 1.5,
        dash: [6, 4],
        points: { show: false },
        value: () => score(line.value),
      });
    }
    const look = {
      stroke: colour("muted"),
      font: "12px " + getComputedStyle(document.body).getPropertyValue("--sans"),
      grid: { stroke: colour("rule"), width: 1 },
      ticks: { show: false },
    };
    // A seed has no point at another seed's x: the nearest of its own is what the legend tells.
    const nearest = (u, si, i) => {
      const column = u.data[si];
      if (!si || column[i] !== undefined) return i;
      for (let step = 1; step < column.length; step++)
        for (const j of [i - step, i + step]) if (column[j] != null) return j;
      return i;
    };
    const edges = (u) => {
      const { left, top, width, height } = u.bbox;
      u.ctx.save();
      u.ctx.font = 12 * devicePixelRatio + "px " + getComputedStyle(document.body).getPropertyValue("--sans");
      for (const line of lines.filter((l) => l.outside)) {
        const up = line.value > u.scales.y.max;
        if (!up && line.value > u.scales.y.min) continue;
        u.ctx.fillStyle = colour(line.css);
        u.ctx.textAlign = up ? "left" : "right"; // at the end where a rising curve is not
        u.ctx.fillText((up ? "↑ " : "↓ ") + line.name + ", " + score(line.value), up ? left + 4 : left + width - 4, up ? top + 14 * devicePixelRatio : top + height - 6);
      }
      u.ctx.restore();
    };
    const chartOf = new uPlot(
      {
        width: plot.clientWidth,
        height: chart.small ? 150 : 300,
        scales: {
          x: { time: false, range: (u, a, b) => [Math.min(0, a), b === a ? a + 1 : b] },
          y: { range: (u, a, b) => (a == null ? [0, 1] : a === b ? [a - (Math.abs(a) || 1) / 10, b + (Math.abs(b) || 1) / 10] : uPlot.rangeNum(a, b, 0.1, true)) },
        },
        series: [{ label: words[axis], value: (u, v) => along(v) }, ...series],
        bands,
        axes: [
          { ...look, values: (u, vs) => vs.map(along), space: 70, size: 30 },
          { ...look, values: (u, vs) => vs.map(score), size: 52, space: chart.small ? 34 : 44 },
        ],
        cursor: { drag: { x: true, y: false }, points: { size: 7 }, dataIdx: nearest },
        legend: { show: true },
        hooks: { draw: [edges] },
      },
      uPlot.join(tables),
      plot,
    );
    drawn.set(chart.id, chartOf);
    figure.classList.add("drawn");
  }
  function setAxis(name) {
    axis = name;
    for (const button of document.querySelectorAll("button[data-x]")) button.setAttribute("aria-pressed", button.dataset.x === name);
    for (const span of document.querySelectorAll("[data-axis]")) {
      span.dataset.axis ||= span.textContent;
      span.textContent = name === "h" ? "hours of wall-clock" : span.dataset.axis;
    }
    drawAll();
  }
  for (const button of document.querySelectorAll("button[data-x]")) button.addEventListener("click", () => setAxis(button.dataset.x));
  for (const button of document.querySelectorAll("button[data-reset]")) button.addEventListener("click", () => drawAll());
  const drawAll = () => document.querySelectorAll("figure[data-chart]").forEach((f) => f.offsetParent && draw(f));

  // What the network said of the picture that is shown: bars that follow the video.
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const films = new Map(data.sections.flatMap((s) => Object.entries(s.films).map(([kind, film]) => [s.id + "/" + kind, film])));
  function follow(figure) {
    const film = films.get(figure.closest("section").id + "/" + figure.dataset.film);
    const video = figure.querySelector("video");
    const rows = [...figure.querySelectorAll("table.bars tbody tr")].map((tr) => ({ tr, said: tr.querySelector(".sr"), fill: tr.querySelector(".fill"), text: tr.querySelector(".n") }));
    const now = figure.querySelector(".now"), cursor = figure.querySelector(".cursor");
    const played = bytes(film.played), levels = new DataView(bytes(film.levels).buffer), n = film.actions.length;
    const percent = (v) => (100 * (v - film.from)) / (film.to - film.from);
    const zero = percent(Math.min(Math.max(0, film.from), film.to));
    const words = (v) => (film.kind === "probabilities" ? Math.round(100 * v) + " %" : v.toFixed(film.decimals)).replace("-", "−");
    let at = -1;
    function show(seconds) {
      const i = Math.min(Math.max(Math.floor(seconds * film.fps + 0.01), 0), played.length - 1);
      if (i === at) return;
      at = i;
      figure.dataset.picture = i;
      const values = rows.map((_, a) => film.low + ((film.high - film.low) * levels.getUint16(2 * (i * n + a), true)) / 65535);
      const best = Math.max(...values);
      rows.forEach(({ tr, said, fill, text }, a) => {
        const to = percent(values[a]);
        fill.style.left = Math.min(to, zero) + "%";
        fill.style.width = Math.abs(to - zero) + "%";
        text.textContent = words(values[a]);
        tr.className = (a === played[i] ? "played" : "") + (values[a] === best ? " best" : "");
        said.textContent = a === played[i] ? ", played" : "";
      });
      now.textContent = "at " + (i / film.fps).toFixed(1) + " s";
      if (cursor) for (const end of ["x1", "x2"]) cursor.setAttribute(end, (100 * i) / Math.max(played.length - 1, 1) + "%");
    }
    for (const event of ["loadeddata", "seeked", "timeupdate", "pause"]) video.addEventListener(event, () => video.paused && show(video.currentTime));
    if (video.requestVideoFrameCallback) {
      const next = (_, frame) => (show(frame.mediaTime), video.requestVideoFrameCallback(next));
      video.requestVideoFrameCallback(next);
    } else video.addEventListener("timeupdate", () => show(video.currentTime));
    show(0);
  }
  document.querySelectorAll("figure[data-film]").forEach(follow);

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
    reachable();
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
