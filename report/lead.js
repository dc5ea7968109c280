// The lead figure moves to what a reader chooses: each row's numbers and places, and what the caption says of all.
"use strict";
(() => {
  const figure = document.getElementById("lead"), form = figure.querySelector("form");
  const data = JSON.parse(figure.querySelector("script").textContent);
  const chosen = (name) => (form.querySelector("[name=lead-" + name + "]:checked") || {value: "problems"}).value;
  const place = (mark, left, width) => {
    mark.style.left = left + "%";
    if (width !== undefined) mark.style.width = width + "%";
  };
  const show = () => {
    const rule = chosen("rule"), length = chosen("length"), both = chosen("covers") === "both";
    const rows = data.rows[rule + " " + length];
    for (const row of figure.querySelectorAll("tbody tr")) {
      const found = rows[row.dataset.arm], [accuracy, ...ends] = found, students = found[5];
      const [low, high] = both ? ends.slice(0, 2) : ends.slice(2, 4);
      row.cells[1].textContent = accuracy.toFixed(1) + "\u00a0%";
      row.cells[2].textContent = low.toFixed(1) + " to " + high.toFixed(1);
      place(row.querySelector(".interval"), low, high - low);
      place(row.querySelector(".dot"), accuracy);
      row.querySelectorAll(".student").forEach((mark, seed) => place(mark, students[seed]));
    }
    const steps = length === "all" ? "" : " that take " + length + (length === "1" ? " calculation" : " calculations");
    figure.querySelector("caption").textContent = "Accuracy on " + data.n[length] + " test problems" + steps +
      " by the rule " + rule + "; lines: 95\u00a0% intervals over problems" +
      (both ? " and students" : form.querySelector("[name=lead-covers]") ? " alone" : "") +
      (figure.querySelector(".student") ? "; rings: single students." : ".");
  };
  form.addEventListener("change", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  show(); // a browser that goes back keeps what was chosen
})();
