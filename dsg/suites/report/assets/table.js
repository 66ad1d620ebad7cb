// The table of runs, the settings below it, and the window with a run's command.
"use strict";

function numberColumn(field, title, value, text, extra = {}) {
  return {
    field, title, hozAlign: "right", headerHozAlign: "right", titleFormatter: () => element("span", {}, title),
    mutator: (_, run) => value(run), sorter: nullsLast, headerSortStartingDir: "desc",
    formatter: (cell) => (cell.getValue() === null ? "" : text(cell.getData())), ...extra,
  };
}

function nullsLast(a, b, rowA, rowB, column, direction) {
  if (a === null || b === null) return a === b ? 0 : (a === null) === (direction === "asc") ? 1 : -1;
  return a - b;
}

function widthOf(text) {
  const context = document.createElement("canvas").getContext("2d");
  context.font = `13px ${getComputedStyle(document.body).fontFamily}`;
  return Math.ceil(context.measureText(text).width);
}

// Numbers of a column, padded to one width, so that their points are below one another
function metricColumn(name) {
  const all = report.runs.map((run) => numbersOf(run, name)).filter((m) => m && m.mean !== null);
  const texts = all.flatMap((m) => [m.mean, m.low, m.high].filter((v) => v !== null).map((v) => shown(name, v)));
  const width = Math.max(0, ...texts.map((text) => text.length));
  const pad = (value) => shown(name, value).padStart(width, "\u2007");
  const text = (run) => {
    const m = numbersOf(run, name);
    const interval = m.low === null ? "" : `[${pad(m.low)}, ${pad(m.high)}]`;
    return element("span", {}, pad(m.mean), element("span", { class: "interval" }, interval));
  };
  const larger = report.metrics[name].larger_is_better;
  const widest = `${"0".repeat(3 * width)} [, ]`;
  return numberColumn(`metric ${name}`, titled(name), (run) => numbersOf(run, name)?.mean ?? null, text, {
    headerSortStartingDir: larger === false ? "asc" : "desc", width: Math.max(112, widthOf(widest) + 20),
  });
}

function textColumn(field, title, extra = {}) {
  return { field, title, formatter: "plaintext", ...extra };
}

// Figures of others by the run's protocol, and how far the run is from them
// The method's name opens the window with the run's command
function methodCell(cell) {
  const run = cell.getData();
  const dot = element("span", { class: run.constrained ? "dot filled" : "dot", "aria-hidden": "true" });
  dot.style.color = run.color;
  const open = element("button", { type: "button", class: "name", title: "command and versions" }, run.method);
  open.addEventListener("click", () => openRun(run));
  return element("span", {}, dot, open, run.options ? element("span", { class: "options" }, run.options) : "");
}

const columns = [
  { field: "method", title: "Method", frozen: true, formatter: methodCell },
  textColumn("task", "Task"),
  textColumn("model", "Model"),
  numberColumn("steps", "Steps", (run) => run.steps || null, (run) => String(run.steps), {
    headerSortStartingDir: "asc", width: 82,
  }),
  ...Object.keys(report.metrics).map(metricColumn),
  numberColumn("compute", "Compute [passes]", (run) => run.compute, (run) => run.compute.toFixed(0), { width: 100 }),
  numberColumn("seconds", "Time [s/image]", (run) => run.seconds, (run) => run.seconds.toFixed(2), { width: 96 }),
  numberColumn("images", "Images", (run) => run.images, (run) => String(run.images), { width: 84 }),
];

const table = new Tabulator("#table", {
  data: report.runs.map((run) => ({ ...run })), columns, layout: "fitData", renderVertical: "basic",
  columnDefaults: { resizable: false, vertAlign: "middle", headerWordWrap: true }, columnHeaderVertAlign: "bottom",
  nestedFieldSeparator: false, placeholder: "No run fits these filters.",
});

// Headings are reached with Tab, and sort with Enter or Space
table.on("tableBuilt", () => {
  for (const heading of document.querySelectorAll("#table .tabulator-col.tabulator-sortable")) {
    heading.tabIndex = 0;
    heading.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      heading.querySelector(".tabulator-col-content").click();
    });
  }
  filterTable();
  listeners.push(filterTable);
});

function filterTable() {
  const runs = report.runs.filter(visible);
  table.setFilter(visible);
  const toggle = (field, on) => (on ? table.showColumn(field) : table.hideColumn(field));
  for (const name of Object.keys(report.metrics)) {
    toggle(`metric ${name}`, runs.some((run) => (numbersOf(run, name)?.mean ?? null) !== null));
  }
  toggle("task", unique(runs.map((run) => run.task)).length > 1);
  toggle("model", unique(runs.map((run) => run.model)).length > 1);
  table.redraw(true);
  const lines = unique(runs.flatMap((run) => run.settings));
  document.getElementById("settings").replaceChildren(...lines.map((line) => element("p", {}, line)));
}

function openRun(run) {
  const dialog = document.getElementById("run");
  const command = element("pre", {}, run.command ?? "");
  const copy = element("button", { type: "button" }, "Copy the command");
  copy.addEventListener("click", () => {
    getSelection().selectAllChildren(command);
    navigator.clipboard?.writeText(run.command).then(() => { copy.textContent = "Copied"; }, () => {});
  });
  const close = element("button", { type: "button", autofocus: "" }, "Close");
  close.addEventListener("click", () => dialog.close());
  const facts = [
    ["Folder", run.path], ["Task", `${run.task}, ${run.model}`],
    ["Passes", run.compute === null ? "" : `${run.forward} forward, ${run.backward} backward per image`],
    ...Object.entries(run.versions).map(([name, all]) => [name, all.join(", ")]),
    ...run.settings.map((line) => ["Metric", line]),
    ["Failed", run.failures ? `${run.failures} images` : ""],
  ].filter(([, text]) => text);
  dialog.replaceChildren(
    element("h2", { id: "run-title" }, [run.method, run.options, steps(run)].filter(Boolean).join(", ")),
    run.command ? command : element("p", {}, "No sampler made these images."),
    element("dl", {}, ...facts.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)])),
    ...(run.command ? [copy, " "] : []), close,
  );
  dialog.showModal();
}
