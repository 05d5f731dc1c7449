// The error surface: which path is shown, where it ends. Without a document (node) it computes only.
"use strict";
const surface = {
  // The same as optkern/demo/surface.py: height().
  height: (x, y) => ((x * x - 1) * (x * x - 1)) / 2 - x / 4 + y * y,

  // base64 of little-endian float32 numbers
  numbers(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    return Float32Array.from({ length: bytes.length / 4 }, (_, k) => view.getFloat32(4 * k, true));
  },

  // The points of one path, up to the first that is no number, and `steps` steps at most.
  path(data, numbers, name, start, rate, momentum, steps) {
    const rule = data.rules.find((one) => one.name === name);
    const mu = Math.min(momentum, rule.momenta - 1);
    const cell = (start * data.rates.length + rate) * rule.momenta + mu;
    const first = rule.offset + cell * 2 * (data.steps + 1);
    const points = [];
    for (let k = 0; k <= Math.min(steps, data.steps); k++) {
      const point = [numbers[first + 2 * k], numbers[first + 2 * k + 1]];
      if (!point.every(Number.isFinite)) break;
      points.push(point);
    }
    return points;
  },

  // Where a path of so many steps has come to.
  place(data, points, steps) {
    const [x, y] = points[points.length - 1];
    if (points.length <= Math.min(steps, data.steps) || Math.abs(x) + Math.abs(y) > 100) {
      return "diverged";
    }
    for (const [name, at] of Object.entries(data.rests)) {
      if (Math.hypot(x - at, y) < 0.1) return `at the ${name}`;
    }
    const [left, right, low, high] = data.box;
    return x < left || x > right || y < low || y > high ? "outside the picture" : "on its way";
  },

  // Places moved apart by `gap`, as little as may be, within [low, high].
  apart(wanted, gap, low, high) {
    const order = wanted.map((_, k) => k).sort((a, b) => wanted[a] - wanted[b]);
    const places = order.map((k) => Math.min(Math.max(wanted[k], low), high));
    for (let k = 1; k < places.length; k++) places[k] = Math.max(places[k], places[k - 1] + gap);
    const last = places.length - 1;
    if (last >= 0 && places[last] > high) {
      places[last] = high;
      for (let k = last - 1; k >= 0; k--) places[k] = Math.min(places[k], places[k + 1] - gap);
    }
    const found = [];
    order.forEach((k, n) => (found[k] = places[n]));
    return found;
  },
};

surface.start = function (document) {
  const box = document.getElementById("surface");
  const data = JSON.parse(document.getElementById("surface-data").textContent);
  const numbers = surface.numbers(data.paths);
  const svg = box.querySelector("svg");
  const lines = svg.querySelector(".paths");
  const body = box.querySelector("tbody");
  const [width, high, right] = ["width", "height", "plot"].map((key) => +svg.dataset[key]);
  const control = (name) => box.querySelector(`[name=${name}]`);
  const toX = (x) => ((x - data.box[0]) / (data.box[1] - data.box[0])) * right;
  const toY = (y) => ((data.box[3] - y) / (data.box[3] - data.box[2])) * high;
  const near = (value, end) => Math.max(-end, Math.min(2 * end, value));
  const slots = new Map(); // a rule keeps its colour for as long as it is ticked

  function make(name, attributes, parent, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    if (text) made.textContent = text;
    return parent.appendChild(made);
  }

  function ticked() {
    const names = [...box.querySelectorAll("[name=rule]:checked")].map((one) => one.value);
    for (const name of slots.keys()) if (!names.includes(name)) slots.delete(name);
    for (const name of names) {
      if (slots.has(name)) continue;
      let slot = 0;
      while ([...slots.values()].includes(slot)) slot++;
      slots.set(name, slot);
    }
    return names;
  }

  function draw() {
    const rate = +control("lr").value;
    const momentum = +control("momentum").value;
    const steps = +control("steps").value;
    const start = +box.querySelector("[name=start]:checked").value;
    for (const [name, said] of [
      ["lr", data.rates[rate]],
      ["momentum", data.momenta[momentum]],
      ["steps", steps],
    ]) {
      control(name).setAttribute("aria-valuetext", said);
      box.querySelector(`output[for=${name}]`).textContent = said;
    }
    lines.replaceChildren();
    body.replaceChildren();
    const shown = ticked().map((name) => {
      const points = surface.path(data, numbers, name, start, rate, momentum, steps);
      const slot = slots.get(name); // beyond six the colours come again, with other dashes
      return { name, points, look: `line-${slot % 6} dash-${(slot + Math.floor(slot / 6)) % 6}` };
    });
    const ends = shown.map((one) => near(toY(one.points[one.points.length - 1][1]), high));
    const places = surface.apart(ends, 20, 8, high - 6);
    shown.forEach(({ name, points, look }, k) => {
      const at = points.map(([x, y]) => [near(toX(x), right), near(toY(y), high)]);
      const text = at.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`);
      make("polyline", { points: text.join(" "), class: look }, lines);
      const [x, y] = at[at.length - 1];
      make("circle", { cx: x.toFixed(1), cy: y.toFixed(1), r: 4, class: `${look} end` }, lines);
      const level = { y1: places[k], y2: places[k] };
      make("line", { x1: right + 8, x2: right + 28, ...level, class: look }, lines);
      const narrow = { textLength: 8.4 * name.length, lengthAdjust: "spacingAndGlyphs" };
      const long = name.length > 13 ? narrow : {};
      make("text", { x: right + 33, y: places[k] + 4, ...long }, lines, name);
      const row = body.insertRow();
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = name;
      row.appendChild(head);
      const end = points[points.length - 1];
      const place = surface.place(data, points, steps);
      const off = place === "diverged";
      for (const cell of [
        off ? "" : end[0].toFixed(3),
        off ? "" : end[1].toFixed(3),
        off ? "" : surface.height(...end).toFixed(4),
        place,
      ]) {
        row.insertCell().textContent = cell;
      }
    });
  }

  box.classList.add("alive");
  for (const one of box.querySelectorAll("input")) {
    one.disabled = false;
    one.addEventListener("input", draw);
  }
  draw();
};

if (typeof document !== "undefined") surface.start(document);
if (typeof module !== "undefined") module.exports = surface;
