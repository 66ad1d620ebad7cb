// Quality against compute: a plot per task, a curve per method over its numbers of steps.
"use strict";

const axes = document.getElementById("axes");
axes.addEventListener("submit", (event) => event.preventDefault());
axes.append(select("Metric", "metric", [], drawPlots));
let plots = [];
const TICKS = [1, 2, 5].flatMap((n) => [0, 1, 2, 3, 4].map((k) => n * 10 ** k)).sort((a, b) => a - b);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const DASH = [5, 4];

function fillMetrics() {
  const runs = report.runs.filter(visible);
  const names = Object.keys(report.metrics).filter((name) => runs.some((run) => run.compute && numbersOf(run, name)));
  const first = names.find((name) => report.metrics[name].larger_is_better !== null);
  fill(axes.elements.metric, names.map((name) => [name, titled(name)]), first);
  drawPlots();
}

// Runs with their methods' own values make curves; each other run is a curve of one point
function curves(runs) {
  const found = new Map();
  for (const run of runs) {
    const key = run.options ? `run ${run.index}` : run.method;
    found.set(key, [...(found.get(key) ?? []), run]);
  }
  return [...found.values()].map((all) => all.sort((a, b) => a.compute - b.compute));
}

function drawPlots() {
  const name = axes.elements.metric.value;
  plots.forEach((plot) => plot.destroy());
  plots = [];
  const runs = report.runs.filter((run) => visible(run) && numbersOf(run, name)?.mean != null);
  const boxes = unique(runs.map(group)).map((title) => {
    const box = element("div", { class: "plot" });
    return { title, box, runs: runs.filter((run) => group(run) === title) };
  });
  document.getElementById("plots").replaceChildren(
    ...boxes.map(({ title, box }) => element("div", {}, element("h3", {}, `${title}: ${titled(name)}`), box)));
  plots = boxes.filter((one) => one.runs.some((run) => run.compute)).map((one) => drawPlot(one, name));
  drawLegend(runs.filter((run) => run.compute));
}

function drawPlot({ title, box, runs }, name) {
  const made = curves(runs.filter((run) => run.compute));
  const data = uPlot.join(made.map((curve) => [
    curve.map((run) => run.compute), curve.map((run) => numbersOf(run, name).mean)]));
  const points = made.flat();
  const computes = points.map((run) => run.compute);
  const bounds = runs.flatMap((run) => Object.values(numbersOf(run, name))).filter(Number.isFinite);
  const axis = { stroke: css("--soft"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line") },
    font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif", labelSize: 20 };
  const [low, high] = [Math.min(...computes) / 1.25, Math.max(...computes) * 1.25];
  const splits = TICKS.filter((tick) => tick >= low && tick <= high);
  const plot = new uPlot({
    width: box.clientWidth || 340, height: 270, legend: { show: false }, padding: [8, 8, 0, 0],
    cursor: { drag: { x: false, y: false }, y: false, x: false },
    scales: { x: { time: false, distr: 3, range: [low, high] }, y: { range: padded(bounds) } },
    axes: [
      { ...axis, label: "compute [passes per image]", splits: () => splits, filter: (_, at) => at,
        values: (_, at) => at.map(String) },
      { ...axis, size: 62 },
    ],
    series: [{}, ...made.map((curve) => seriesOf(curve))],
    hooks: { drawSeries: [(u, k) => drawBars(u, made[k - 1], name)], draw: [(u) => drawReferences(u, runs, name)],
      setCursor: [(u) => tip(u, box, points, name)] },
  }, data, box);
  plot.root.setAttribute("role", "img");
  plot.root.setAttribute("aria-label", `${titled(name)} against compute, ${title}; the numbers are in the table`);
  return plot;
}

function padded(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - margin, high + margin];
}

function seriesOf([first, ...more]) {
  const stroke = first.color;
  const hollow = Boolean(first.options) || !first.constrained;
  return { stroke, width: more.length ? 1.75 : 0, dash: first.constrained ? [] : DASH, spanGaps: true,
    points: { show: true, size: first.options ? 5 : 7, stroke, fill: hollow ? css("--paper") : stroke, width: 1.5 } };
}

function drawBars(u, curve, name) {
  const { ctx } = u;
  ctx.save();
  ctx.strokeStyle = curve[0].color;
  ctx.lineWidth = devicePixelRatio;
  ctx.globalAlpha = 0.55;
  for (const run of curve.filter((one) => !one.options && numbersOf(one, name).low != null)) {
    const { low, high } = numbersOf(run, name);
    const x = u.valToPos(run.compute, "x", true);
    ctx.beginPath();
    ctx.moveTo(x, u.valToPos(low, "y", true));
    ctx.lineTo(x, u.valToPos(high, "y", true));
    ctx.stroke();
  }
  ctx.restore();
}

// What takes no pass of the network is a level
function drawReferences(u, runs, name) {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = css("--soft");
  ctx.lineWidth = devicePixelRatio;
  ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
  ctx.textAlign = "right";
  for (const run of runs.filter((one) => !one.compute)) {
    const y = u.valToPos(numbersOf(run, name).mean, "y", true);
    ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    ctx.fillText(run.method, bbox.left + bbox.width - 4 * devicePixelRatio, y - 4 * devicePixelRatio);
  }
  ctx.restore();
}

function tip(u, box, points, name) {
  box.querySelector(".tip")?.remove();
  const { left, top } = u.cursor;
  const at = points.map((run) => {
    const [x, y] = [u.valToPos(run.compute, "x"), u.valToPos(numbersOf(run, name).mean, "y")];
    return { run, x, y, distance: Math.hypot(x - left, y - top) };
  }).sort((a, b) => a.distance - b.distance)[0];
  if (left < 0 || !at || at.distance > 24) return;
  const { run } = at;
  const { mean, low, high } = numbersOf(run, name);
  const interval = low == null ? "" : ` [${shown(name, low)}, ${shown(name, high)}]`;
  const words = [run.method, run.options, steps(run)].filter(Boolean).join(", ");
  const made = element("div", { class: "tip" }, `${words}: ${shown(name, mean)}${interval}, ${run.compute} passes`);
  const over = u.over;
  made.style.left = `${Math.max(0, Math.min(over.offsetLeft + at.x + 10, box.clientWidth - 220))}px`;
  made.style.top = `${over.offsetTop + Math.max(0, at.y - 44)}px`;
  box.append(made);
}

function drawLegend(runs) {
  const first = unique(runs.map((run) => run.method)).map((method) => runs.find((run) => run.method === method));
  document.getElementById("legend").replaceChildren(...first.map((run) => {
    const holder = element("span");
    const [color, dash] = [run.color, run.constrained ? "" : "5 4"];
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const size = { width: 30, height: 10, "aria-hidden": "true" };
    Object.entries(size).forEach(([name, value]) => svg.setAttribute(name, value));
    const line = document.createElementNS(svg.namespaceURI, "path");
    const mark = document.createElementNS(svg.namespaceURI, "circle");
    const drawn = { d: "M0 5H30", stroke: color, "stroke-width": 1.75, "stroke-dasharray": dash };
    const inside = run.constrained ? color : css("--paper");
    const marked = { cx: 15, cy: 5, r: 3.5, stroke: color, "stroke-width": 1.5, fill: inside };
    Object.entries(drawn).forEach(([name, value]) => line.setAttribute(name, value));
    Object.entries(marked).forEach(([name, value]) => mark.setAttribute(name, value));
    svg.append(line, mark);
    holder.append(svg, run.method);
    return holder;
  }));
}

fillMetrics();
listeners.push(fillMetrics);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawPlots);
let resizing;
addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => plots.forEach((plot) => {
    plot.setSize({ width: plot.root.parentElement.clientWidth, height: 270 });
  }), 100);
});
