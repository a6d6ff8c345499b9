// What the widget manager and the theme leave out: a bridge to MathJax 3, names for screen readers, tab stops.
"use strict";

// ipywidgets asks MathJax 2 to typeset the name of a control; answer with MathJax 3.
document.addEventListener("DOMContentLoaded", () => {
  if (window.MathJax && !window.MathJax.Hub) {
    window.MathJax.Hub = {
      Queue: ([, , element]) =>
        window.MathJax.startup.promise.then(() => window.MathJax.typesetPromise([element])),
    };
  }
});

// ipywidgets draws a label beside a control but does not tie the two together (jupyter-widgets/ipywidgets#2650).
function nameControls(root) {
  for (const label of root.querySelectorAll(".jupyter-widgets label.widget-label")) {
    const box = label.parentElement;
    const name = label.textContent.trim();
    for (const control of box.querySelectorAll("select, .noUi-handle")) {
      control.setAttribute("aria-label", name);
    }
    for (const radios of box.querySelectorAll(".widget-radio-box")) {
      radios.setAttribute("role", "radiogroup");
      radios.setAttribute("aria-label", name);
    }
    // A slider over texts announces a position; announce the text that is shown beside it.
    const handle = box.querySelector(".noUi-handle");
    const readout = box.querySelector(".widget-readout");
    if (handle && readout && handle.getAttribute("aria-valuetext") !== readout.textContent) {
      handle.setAttribute("aria-valuetext", readout.textContent);
    }
  }
}

document.addEventListener("DOMContentLoaded", () => {
  let waiting = false;
  new MutationObserver(() => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      nameControls(document);
    });
  }).observe(document.body, { childList: true, subtree: true, characterData: true });
});

// The theme gives a tab stop to code that scrolls sideways, but not to tables: no key would reach their last columns.
function reachTables() {
  for (const table of document.querySelectorAll(".pst-scrollable-table-container")) {
    table.tabIndex = table.scrollWidth > table.clientWidth ? 0 : -1;
  }
}

window.addEventListener("load", reachTables);
window.addEventListener("resize", reachTables);
