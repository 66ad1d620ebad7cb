// Two images of one input, under a slider.
"use strict";

const choose = document.getElementById("choose");
choose.addEventListener("submit", (event) => event.preventDefault());
choose.append(
  select("Task", "task", [], fillChoices),
  select("Image", "image", [], showPair),
  select("Left", "left", [], showPair),
  select("Right", "right", [], showPair),
);

const runsHere = () => report.runs.filter((run) => visible(run) && group(run) === choose.elements.task.value);

function fillTasks() {
  fill(choose.elements.task, unique(report.runs.filter(visible).map(group)).map((name) => [name, name]));
  choose.elements.task.parentElement.hidden = choose.elements.task.options.length < 2;
  fillChoices();
}

function fillChoices() {
  const runs = runsHere().filter((run) => run.shown.some((one) => one.restored));
  const sampled = runs.filter((run) => run.command); // baselines have no samples of an image
  const ids = unique((sampled.length ? sampled : runs).flatMap((run) => run.shown.map((one) => one.id)));
  fill(choose.elements.image, ids.map((id) => [id, id]));
  const given = ["condition", "truth"].filter((side) => runs.some((run) => run.shown.some((one) => one[side])));
  const sides = given.map((side) => [side, side]);
  const made = runs.map((run) => [run.index, [run.method, run.options, steps(run)].filter(Boolean).join(", ")]);
  const last = runs.findLast((run) => run.constrained && !run.options) ?? runs.at(-1);
  fill(choose.elements.left, [...sides, ...made], given[0] ?? runs[0]?.index);
  fill(choose.elements.right, [...sides, ...made], last?.index);
  showPair();
}

// {digest, name, numbers} of what is chosen on one side
function side(value) {
  const id = choose.elements.image.value;
  const any = runsHere().flatMap((run) => run.shown).filter((one) => one.id === id);
  if (value === "condition" || value === "truth") {
    return { digest: any.find((one) => one[value])?.[value], name: value, numbers: {} };
  }
  const run = report.runs[value];
  const one = run?.shown.find((s) => s.id === id) ?? run?.shown.find((s) => s.image === any[0]?.image);
  const name = run ? [run.method, run.options, steps(run)].filter(Boolean).join(", ") : "";
  return { digest: one?.restored, name, numbers: one?.numbers ?? {} };
}

function picture(slot, { digest, name }) {
  if (!digest) return element("div", { slot, class: "none" }, "no image");
  return element("img", { slot, src: report.pictures[digest], alt: name });
}

// The two names, and below them what the two images have of every metric
function legendOf(left, right) {
  const has = (one, name) => Number.isFinite(one.numbers[name]);
  const names = Object.keys(report.metrics).filter((name) => has(left, name) || has(right, name));
  const text = (one, name) => (has(one, name) ? shown(name, one.numbers[name]) : "");
  const heads = element("div", { class: "names" }, element("span", {}, left.name), element("span", {}, right.name));
  return element("div", {}, heads, element("div", { class: "sides" }, ...names.flatMap((name) => [
      element("span", {}, text(left, name)), element("i", {}, titled(name)), element("span", {}, text(right, name))])));
}

function showPair() {
  const left = side(choose.elements.left.value);
  const right = side(choose.elements.right.value);
  const figure = document.getElementById("compare");
  if (!left.name || !right.name) {
    figure.replaceChildren(element("p", { class: "note" }, "No image fits these filters."));
    return;
  }
  const id = choose.elements.image.value;
  const prompt = runsHere().flatMap((run) => run.shown).find((one) => one.id === id && one.prompt)?.prompt;
  const slider = element("img-comparison-slider", { keyboard: "enabled", tabindex: 0, "aria-label": "divider" },
    picture("first", left), picture("second", right));
  const caption = prompt ? [element("figcaption", {}, `“${prompt}”`)] : [];
  figure.replaceChildren(slider, legendOf(left, right), ...caption);
}

fillTasks();
listeners.push(fillTasks);
