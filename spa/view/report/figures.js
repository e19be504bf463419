"use strict";
// Names and messages are other people's: they reach the page as text nodes alone.
const report = JSON.parse(document.getElementById("report-data").textContent);
const isPair = report.folders.length > 1;
const letters = ["A", "B"];
const $ = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}
function drawn(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}
function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const digits = (value, places = 3) => (isNumber(value) ? value.toFixed(places) : "–");
const signed = (value, places = 3) =>
  (isNumber(value) ? (value < 0 ? "−" : "+") + Math.abs(value).toFixed(places) : "–");
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const seconds = (value) => (value < 60 ? `${value.toFixed(2)} s`
  : `${Math.floor(value / 60)}:${(value % 60).toFixed(2).padStart(5, "0")}`);
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

// Red at 0, white at 0.5, blue at 1: as in the painted videos.
function colour(score) {
  if (!isNumber(score)) return "var(--faint)";
  const s = clamp(score, 0, 1), pale = 2 * Math.min(s, 1 - s);
  const end = s < 0.5 ? [207, 47, 60] : [43, 89, 195];
  return `rgb(${end.map((c) => Math.round(c + (247 - c) * pale)).join(" ")})`;
}

// --- A line over time ---

function extent(curves) {
  let low = Infinity, high = -Infinity;
  for (const curve of curves) for (const y of curve) {
    if (isNumber(y)) { low = Math.min(low, y); high = Math.max(high, y); }
  }
  if (low > high) return [0, 1];
  const step = high - low > 0.2 ? 0.1 : 0.02;
  low = Math.floor(low / step + 1e-9) * step;
  high = Math.ceil(high / step - 1e-9) * step;
  const bottom = Math.max(0, Math.min(low, high - step));
  if (bottom >= 1) return [0, 1];
  return [bottom, Math.max(bottom + step, Math.min(1, high))];
}
const sharedExtent = extent(report.videos.flatMap(
  (video) => video.sides.filter(Boolean).map((side) => side.curve)));

// Frame t lies in the middle of its share of the line; what has no score is a gap.
function pathOf(curve, x, y, length = curve.length) {
  let path = "", isOn = false;
  curve.forEach((value, t) => {
    if (isNumber(value)) {
      path += `${isOn ? "L" : "M"}${x((t + 0.5) / length).toFixed(1)} ${y(value).toFixed(1)}`;
      const isAlone = !isOn && !isNumber(curve[t + 1]);
      if (isAlone) path += "h.01";
      isOn = true;
    } else isOn = false;
  });
  return path;
}

function sparkline(sides) {
  const [width, height] = [170, 34], [low, high] = sharedExtent;
  const x = (share) => share * width;
  // One scale for all, stretched near the top: a dip of 0.04 shows beside one of 0.5.
  const y = (value) =>
    4 + (height - 8) * Math.sqrt(clamp((high - value) / (high - low), 0, 1));
  const svg = drawn("svg", { width, height, viewBox: `0 0 ${width} ${height}`,
    preserveAspectRatio: "none", "aria-hidden": "true" });
  sides.forEach((side, i) => {
    if (!side) return;
    svg.append(drawn("path", { d: pathOf(side.curve, x, y), class: i ? "line second" : "line",
      "vector-effect": "non-scaling-stroke" }));
    if (!isPair && side.drops.length) {
      const { frame, value } = worstDrop(side);
      // A dot that stays round where the line is stretched to a phone's width.
      svg.append(drawn("path", { d: `M${x((frame + 0.5) / side.curve.length)} ${y(value)}h.01`,
        class: "drop-dot", "vector-effect": "non-scaling-stroke" }));
    }
  });
  return svg;
}
const worstDrop = (side) => side.drops.reduce((a, b) => (b.value < a.value ? b : a));

// A dot where the score is, with its spread; of a pair, a ring where the other's is.
function forest(sides) {
  const [width, height] = [140, 26], x = (value) => 5 + clamp(value, 0, 1) * (width - 10);
  const svg = drawn("svg", { width, height, viewBox: `0 0 ${width} ${height}`,
    "aria-hidden": "true" }, drawn("path", { d: `M5 13H${width - 5}M${x(0.5)} 9v8`, class: "axis" }));
  const [first, second] = sides;
  if (second && isNumber(second.realism)) {
    if (first && isNumber(first.realism)) {
      svg.append(drawn("path", { d: `M${x(first.realism)} 13H${x(second.realism)}`,
        class: "whisker" }));
    }
    svg.append(drawn("circle", { cx: x(second.realism), cy: 13, r: 4.5, class: "ring" }));
  }
  if (first && isNumber(first.realism)) {
    if (!isPair && isNumber(first.spread)) {
      svg.append(drawn("path", { d: `M${x(first.realism - first.spread)} 13` +
        `H${x(first.realism + first.spread)}`, class: "whisker" }));
    }
    svg.append(drawn("circle", { cx: x(first.realism), cy: 13, r: 4.5, class: "mark",
      fill: colour(first.realism) }));
  }
  return svg;
}

