// A grid with the values of a table over its training: the largest one in each cell, arrows where the greedy action leads.
"use strict";
const GRID_SVG = "http://www.w3.org/2000/svg", SIDE = 56;
const TURNS = { up: -90, right: 0, down: 90, left: 180 };

function shape(parent, name, attributes, text) {
  const made = document.createElementNS(GRID_SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function tableAt(all, picture) {
  const states = all.cell_of.length, actions = all.actions.length, from = picture * states * actions;
  const scale = (all.high - all.low) / 65535;
  return (state, action) => all.low + scale * all.numbers[from + state * actions + action];
}

function drawGrid(box, all) {
  const svg = box.querySelector("svg"), value = tableAt(all, box.picture);
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${SIDE * all.columns} ${SIDE * all.rows}`);
  const span = all.high - all.low || 1, stateOf = {};
  all.cell_of.forEach((cell, state) => { if (all.view_of[state] === box.view) stateOf[cell] = state; });
  const tolerance = span / 30000;
  [...all.cells].forEach((kind, cell) => {
    const x = SIDE * (cell % all.columns), y = SIDE * Math.floor(cell / all.columns), state = stateOf[cell];
    shape(svg, "rect", { class: `cell kind-${kind === "." ? "free" : kind}`, x, y, width: SIDE, height: SIDE });
    if (kind !== ".") shape(svg, "text", { class: "kind", x: x + 4, y: y + 12 }, kind);
    const q = all.actions.map((_, action) => value(state, action)), best = Math.max(...q);
    if (q.every((v) => Math.abs(v) < tolerance)) return; // never learned anything, or the end
    shape(svg, "rect", { class: "worth", x, y, width: SIDE, height: SIDE, opacity: 0.08 + (0.5 * (best - all.low)) / span });
    const greedy = all.actions.filter((_, action) => best - q[action] < tolerance), middle = { x: x + SIDE / 2, y: y + SIDE / 2 - 4 };
    for (const name of greedy) {
      if (name in TURNS) shape(svg, "path", { class: "arrow", d: "M4 0h9m-4 -4l4 4l-4 4", transform: `translate(${middle.x} ${middle.y}) rotate(${TURNS[name]})` });
      else shape(svg, "text", { class: "act", x: middle.x, y: middle.y + 4, "text-anchor": "middle" }, name === "pick up" ? "pick" : "drop");
    }
    shape(svg, "text", { class: "value", x: x + SIDE / 2, y: y + SIDE - 5, "text-anchor": "middle" }, best.toFixed(span < 5 ? 3 : 1));
  });
  for (const [row, column] of all.walls) {
    shape(svg, "line", { class: "wall", x1: SIDE * (column + 1), x2: SIDE * (column + 1), y1: SIDE * row, y2: SIDE * (row + 1) });
  }
  const said = `after ${all.steps[box.picture].toLocaleString("en-US")} agent steps`;
  box.querySelector("output").textContent = said;
  svg.setAttribute("aria-label", `The grid ${said}: the largest action value of each cell, and arrows of the greedy actions`);
}

for (const box of document.querySelectorAll(".grid-values")) {
  const all = JSON.parse(document.getElementById(box.dataset.grid).textContent);
  const bytes = Uint8Array.from(atob(all.levels), (c) => c.charCodeAt(0));
  all.numbers = new Uint16Array(bytes.length / 2);
  for (let i = 0; i < all.numbers.length; i++) all.numbers[i] = bytes[2 * i] | (bytes[2 * i + 1] << 8);
  const range = box.querySelector("input"), views = box.querySelector("select");
  box.view = 0;
  const go = (picture) => {
    box.picture = Math.max(0, Math.min(picture, all.steps.length - 1));
    range.value = box.picture;
    drawGrid(box, all);
  };
  range.max = all.steps.length - 1;
  range.addEventListener("input", (event) => go(Number(event.target.value)));
  if (views) views.addEventListener("change", (event) => { box.view = event.target.selectedIndex; go(box.picture); });
  box.hidden = false;
  go(all.steps.length - 1);
}
