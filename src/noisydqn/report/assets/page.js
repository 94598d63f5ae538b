"use strict";
// Draws the figures of a report as SVG, from the values in #data, and lets the reader choose the
// horizontal axis and the variants.
(() => {
  const COLORS = 8;
  const figures = JSON.parse(document.getElementById("data").textContent);
  const state = { axis: "steps", hidden: new Set() };

  function element(name, attributes, parent, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }

  // Numbers

  function short(x) {
    const size = Math.abs(x);
    if (size >= 1e6) return `${+(x / 1e6).toPrecision(4)}M`;
    if (size >= 1e4) return `${+(x / 1e3).toPrecision(4)}k`;
    return String(+x.toPrecision(4));
  }

  // Ticks at 1, 2 or 5 times a power of ten.
  function ticks(low, high, most) {
    const rough = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((x) => x * power).find((x) => x >= rough);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) {
      found.push(i * step);
    }
    return found;
  }

  function extent(values, fallback) {
    let low = Infinity;
    let high = -Infinity;
    for (const value of values) {
      if (value === null) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    if (low > high) return fallback;
    const room = low === high ? Math.abs(low) * 0.05 || 1 : (high - low) * 0.04;
    return [low - room, high + room];
  }

  // Lines

  function shown(figure) {
    return figure.groups.filter((group) => !(group.variant && state.hidden.has(group.color)));
  }

  function axisOf(figure) {
    return state.axis in figure.axes ? state.axis : Object.keys(figure.axes)[0];
  }

  function verticalExtent(figure, groups, axis) {
    if (figure.range) return [figure.range[0], figure.range[1] + 0.02];
    const values = [];
    for (const group of groups) {
      const { y, low = [], high = [] } = group.middle[axis];
      values.push(...y, ...low, ...high, ...group.seeds.flatMap((seed) => seed.y));
    }
    let [low, high] = extent(values, [0, 1]);
    if (figure.floor !== undefined) low = Math.min(low < figure.floor ? low : figure.floor, high);
    if (figure.level === undefined) return [low, high];
    const around = extent([low, high, figure.level], [0, 1]);
    // A threshold far away would leave no room for the curves.
    return around[1] - around[0] < 2 * (high - low) ? around : [low, high];
  }

  // The path through points; in steps, a value holds until the next.
  function path(xs, ys, place, steps) {
    let text = "";
    let before = null;
    xs.forEach((x, i) => {
      if (x === null || ys[i] === null) {
        before = null;
        return;
      }
      const [a, b] = place(x, ys[i]);
      if (before === null) text += `M${a} ${b}`;
      else text += steps ? `H${a}V${b}` : `L${a} ${b}`;
      before = b;
    });
    return text;
  }

  function band(middle, place) {
    const xs = [...middle.x, ...[...middle.x].reverse()];
    const ys = [...middle.low, ...[...middle.high].reverse()];
    return `${path(xs, ys, place, false)}Z`;
  }

  function frame(host, height, label) {
    const width = Math.max(host.clientWidth, 120);
    host.replaceChildren();
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" }, host);
    svg.setAttribute("aria-label", label);
    return { svg, width };
  }

  function drawLines(host, figure) {
    const axis = axisOf(figure);
    const groups = shown(figure);
    const height = Math.round(Math.min(Math.max(host.clientWidth * 0.6, 210), 330));
    const { svg, width } = frame(host, height, `${figure.title}: ${figure.y}`);
    const box = { left: 52, right: width - 14, top: 8, bottom: height - 38 };
    const ends = figure.groups.flatMap((group) => group.middle[axis].x).filter((x) => x !== null);
    const span = [Math.min(0, ...ends), Math.max(...ends, Math.min(0, ...ends) + 1e-9)];
    const [low, high] = verticalExtent(figure, groups, axis);
    const toX = (x) => box.left + ((x - span[0]) / (span[1] - span[0])) * (box.right - box.left);
    const toY = (y) => box.bottom - ((y - low) / (high - low)) * (box.bottom - box.top);
    const place = (x, y) => [toX(x).toFixed(1), toY(y).toFixed(1)];

    for (const y of ticks(low, high, 5)) {
      element("line", { class: "rule", x1: box.left, x2: box.right, y1: toY(y), y2: toY(y) }, svg);
      const at = { x: box.left - 6, y: toY(y) + 4, "text-anchor": "end" };
      element("text", at, svg, short(y));
    }
    for (const x of ticks(...span, Math.max(2, Math.floor(width / 110)))) {
      const at = { x: toX(x), y: box.bottom + 16, "text-anchor": "middle" };
      element("text", at, svg, short(x));
    }
    const middle = { x: (box.left + box.right) / 2, y: height - 5, "text-anchor": "middle" };
    element("text", middle, svg, figure.axes[axis]);
    if (figure.level >= low && figure.level <= high) {
      const y = toY(figure.level);
      element("line", { class: "level", x1: box.left, x2: box.right, y1: y, y2: y }, svg);
    }
    for (const group of groups) {
      const color = `c${group.color % COLORS}`;
      const dash = `dash${Math.floor(group.color / COLORS) % 4}`;
      const drawn = group.middle[axis];
      if (drawn.low) element("path", { class: `band ${color}`, d: band(drawn, place) }, svg);
      for (const seed of group.seeds) {
        const d = path(seed.x[axis], seed.y, place, false);
        element("path", { class: `thin ${color}`, d }, svg);
      }
      const d = path(drawn.x, drawn.y, place, figure.steps);
      element("path", { class: `middle ${color} ${dash}`, d }, svg);
      if (drawn.x.length === 1) {
        const [cx, cy] = place(drawn.x[0], drawn.y[0]);
        element("circle", { class: `point ${color}`, cx, cy, r: 3.5 }, svg);
      }
    }
    follow(host, svg, { box, span, groups, axis, width });
  }

  // A line under the pointer, with the values there.
  function follow(host, svg, { box, span, groups, axis, width }) {
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    host.append(tip);
    const line = element("line", { class: "level", y1: box.top, y2: box.bottom }, svg);
    const hide = () => {
      tip.hidden = true;
      line.setAttribute("visibility", "hidden");
    };
    hide();
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("pointermove", (event) => {
      const scale = width / svg.clientWidth;
      const at = (event.clientX - svg.getBoundingClientRect().left) * scale;
      if (at < box.left || at > box.right) return hide();
      const x = span[0] + ((at - box.left) / (box.right - box.left)) * (span[1] - span[0]);
      const values = groups.map((group) => `${group.name}: ${valueAt(group.middle[axis], x)}`);
      tip.textContent = [short(x), ...values].join("\n");
      tip.hidden = false;
      tip.style.top = "2rem";
      const left = at > width / 2;
      tip.style.left = left ? "auto" : `${at / scale + 12}px`;
      tip.style.right = left ? `${(width - at) / scale + 12}px` : "auto";
      line.setAttribute("visibility", "visible");
      line.setAttribute("x1", at);
      line.setAttribute("x2", at);
    });
  }

  function valueAt(middle, x) {
    let nearest = 0;
    middle.x.forEach((place, i) => {
      if (Math.abs(place - x) < Math.abs(middle.x[nearest] - x)) nearest = i;
    });
    const value = middle.y[nearest];
    if (value === null) return "-";
    const ends = middle.low ? ` [${short(middle.low[nearest])}, ${short(middle.high[nearest])}]` : "";
    return short(value) + ends;
  }

  // Dots

  function drawDots(host, figure) {
    const rows = figure.rows.filter((row) => !state.hidden.has(row.color));
    const step = 46;
    const height = rows.length * step + 44;
    const { svg, width } = frame(host, height, `${figure.title}: ${figure.x}`);
    const values = figure.rows.flatMap((row) => [
      ...row.middle,
      ...row.seeds.map((seed) => seed[1]),
    ]);
    const [low, high] = extent(values, [0, 1]);
    const toX = (x) => 10 + ((x - low) / (high - low)) * (width - 24);
    for (const x of ticks(low, high, Math.max(2, Math.floor(width / 90)))) {
      const at = { class: "rule", x1: toX(x), x2: toX(x), y1: 4, y2: height - 36 };
      element("line", at, svg);
      const place = { x: toX(x), y: height - 21, "text-anchor": "middle" };
      element("text", place, svg, short(x));
    }
    const middle = { x: width / 2, y: height - 4, "text-anchor": "middle" };
    element("text", middle, svg, figure.x);
    rows.forEach((row, i) => {
      const color = `c${row.color % COLORS}`;
      const y = i * step + 30;
      element("text", { class: "name", x: 10, y: y - 14 }, svg, row.name);
      row.seeds.forEach(([name, value], k) => {
        const at = { class: `dot ${color}`, cx: toX(value), cy: y + (k % 3) * 4 - 4, r: 4 };
        element("title", {}, element("circle", at, svg), `${name}: ${short(value)}`);
      });
      const [mid, from, to] = row.middle;
      if (from !== null && to !== null) {
        const at = { class: `middle ${color}`, x1: toX(from), x2: toX(to), y1: y + 9, y2: y + 9 };
        element("line", at, svg);
      }
      if (row.seeds.length > 1) {
        element("circle", { class: `point ${color}`, cx: toX(mid), cy: y + 9, r: 5 }, svg);
      }
    });
  }

  // The page

  const draw = { lines: drawLines, dots: drawDots };
  const hosts = [...document.querySelectorAll("[data-figure]")];
  const redraw = (host) => {
    if (!host.checkVisibility()) return; // in a closed part
    const figure = figures[host.dataset.figure];
    draw[figure.kind](host, figure);
  };
  const redrawAll = () => hosts.forEach(redraw);

  const widths = new Map();
  const observer = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (widths.get(target) === target.clientWidth) continue;
      widths.set(target, target.clientWidth);
      redraw(target);
    }
  });
  hosts.forEach((host) => observer.observe(host));

  for (const part of document.querySelectorAll("details")) {
    part.addEventListener("toggle", () => hosts.filter((x) => part.contains(x)).forEach(redraw));
  }
  for (const input of document.querySelectorAll("input[name=axis]")) {
    input.addEventListener("change", () => {
      state.axis = input.value;
      redrawAll();
    });
  }
  for (const chip of document.querySelectorAll("[data-variant]")) {
    chip.addEventListener("click", () => {
      const variant = Number(chip.dataset.variant);
      const visible = chip.getAttribute("aria-pressed") === "true";
      chip.setAttribute("aria-pressed", String(!visible));
      if (visible) state.hidden.add(variant);
      else state.hidden.delete(variant);
      redrawAll();
    });
  }
})();
