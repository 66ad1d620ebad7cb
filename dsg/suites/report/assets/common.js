// What the parts of the page share. Text reaches the page through textContent alone, never as HTML.
"use strict";

const report = JSON.parse(document.getElementById("data").textContent);
report.runs.forEach((run, k) => { run.index = k; });

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// A labelled select; options are [value, text]
function select(label, name, options, onChange) {
  const made = element("select", { name });
  fill(made, options);
  made.addEventListener("change", onChange);
  return element("label", {}, label, made);
}

// New options; what was chosen stays chosen, if it is still there
function fill(target, options, preferred) {
  const before = target.value;
  target.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
  const values = options.map(([value]) => String(value));
  target.value = values.includes(before) ? before : values.includes(String(preferred)) ? preferred : values[0] ?? "";
}

const unique = (values) => [...new Set(values)];
const group = (run) => (models.length > 1 ? `${run.model} / ${run.task}` : run.task);
const steps = (run) => (run.steps ? `${run.steps} steps` : "");
const titled = (name) => {
  const { title, larger_is_better: larger } = report.metrics[name];
  return title + (larger === true ? " ↑" : larger === false ? " ↓" : "");
};
const shown = (name, value) => value.toFixed(report.metrics[name].digits);
const numbersOf = (run, name) => run.metrics[name] ?? null;

const models = unique(report.runs.map((run) => run.model));
const tasks = unique(report.runs.map((run) => run.task));
const filters = document.getElementById("filters");
const listeners = [];

function visible(run) {
  const chosen = Object.fromEntries([...filters.elements].map((one) => [one.name, one.value]));
  const fits = (name) => !chosen[name] || String(run[name]) === chosen[name];
  return fits("model") && fits("task") && (!run.steps || fits("steps"));
}

function makeFilters() {
  const all = (name, values) => [["", `all ${name}`], ...values.map((value) => [value, value])];
  const allSteps = unique(report.runs.map((run) => run.steps)).filter((n) => n > 0).sort((a, b) => a - b);
  const change = () => listeners.forEach((listener) => listener());
  filters.append(
    select("Model", "model", all("models", models), change),
    select("Task", "task", all("tasks", tasks), change),
    select("Steps", "steps", all("numbers", allSteps), change),
  );
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.elements.task.value = tasks[0];
  for (const one of filters.elements) one.parentElement.hidden = one.options.length < 3; // nothing to choose
}

makeFilters();
