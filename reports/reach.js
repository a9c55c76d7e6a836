// What scrolls sideways must be reachable by keyboard.
"use strict";
function reachable() {
  for (const box of document.querySelectorAll(".scroll, pre")) {
    if (box.scrollWidth <= box.clientWidth) continue;
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", (box.querySelector("caption") ?? box).textContent.trim().slice(0, 60));
  }
}
reachable();
addEventListener("resize", reachable);
document.addEventListener("toggle", reachable, true); // what was folded has no width
