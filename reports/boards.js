// Steps through games on a board: stones, the visits of the search as shares on the free points, the value beside it.
"use strict";
const SVG = "http://www.w3.org/2000/svg", CELL = 40;

function element(parent, name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function show(box, all) {
  const { size, game: rules } = all, game = all.games[box.game], ply = box.ply, go = rules === "go";
  const svg = box.querySelector("svg"), at = (i) => [CELL * (0.5 + (i % size)), CELL * (size - 0.5 - Math.floor(i / size))];
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${CELL * size} ${CELL * size}`);
  for (let i = 0; i < size + !go; i++) {
    const [low, high, line] = go ? [CELL / 2, CELL * (size - 0.5), CELL * (i + 0.5)] : [0, CELL * size, CELL * i];
    element(svg, "line", { class: "line", x1: low, x2: high, y1: line, y2: line });
    element(svg, "line", { class: "line", y1: low, y2: high, x1: line, x2: line });
  }
  const visits = game.visits[ply] ?? [], sum = visits.reduce((a, b) => a + b, 0);
  [...game.boards[ply]].forEach((stone, i) => {
    const [x, y] = at(i);
    if (stone !== ".") {
      element(svg, "circle", { class: stone === "X" ? "black" : "white", cx: x, cy: y, r: CELL * 0.45 });
      if (ply && game.actions[ply - 1] === i) element(svg, "circle", { class: "last", cx: x, cy: y, r: CELL * 0.16 });
    } else if (visits[i]) {
      element(svg, "circle", { class: "share", cx: x, cy: y, r: CELL * 0.45 * Math.sqrt(visits[i] / sum) });
      element(svg, "text", { x, y: y + 4, "text-anchor": "middle" }, Math.round((100 * visits[i]) / sum));
    }
  });
  const over = ply === game.actions.length, colour = (go ? ["Black", "White"] : ["X", "O"])[ply % 2];
  const played = ply ? `after ${ply}. ${game.names[ply - 1]}` : "the empty board";
  const passes = visits.length > size * size && visits[size * size] ? `, pass ${Math.round((100 * visits[size * size]) / sum)} %` : "";
  const value = game.values[ply] ?? null;
  box.querySelector("output").textContent = over ? `${played}: ${game.outcome}`
    : `${played}; ${colour} to move` + (value === null ? "" : `, its value ${value.toFixed(2)}`) + (sum ? `; ${sum} visits, their shares in %${passes}` : "");
  svg.setAttribute("aria-label", box.querySelector("output").textContent);
  const range = box.querySelector("input");
  range.max = game.actions.length;
  range.value = ply;
  const link = box.querySelector("a");
  link.hidden = !game.sgf;
  if (game.sgf) link.href = "data:application/x-go-sgf;charset=utf-8," + encodeURIComponent(game.sgf);
}

for (const box of document.querySelectorAll(".board")) {
  const all = JSON.parse(document.getElementById(box.dataset.games).textContent);
  box.game = box.ply = 0;
  const go = (ply) => {
    box.ply = Math.max(0, Math.min(ply, all.games[box.game].actions.length));
    show(box, all);
  };
  box.hidden = false;
  box.querySelector("select").addEventListener("change", (event) => { box.game = event.target.selectedIndex; go(0); });
  box.querySelector("input").addEventListener("input", (event) => go(Number(event.target.value)));
  for (const button of box.querySelectorAll("button")) button.addEventListener("click", () => go(box.ply + Number(button.dataset.step)));
  go(0);
}
