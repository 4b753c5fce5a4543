"use strict";
// Learning curves: one line a run, the nearest point told in words. Reads the JSON that the page holds.
(() => {
  const byId = id => document.getElementById(id);
  const recipes = new Map(JSON.parse(byId("curves-data").textContent).map(r => [r.name, r]));
  const plot = byId("curves-plot"), told = byId("curves-told");
  const choices = ["first", "second", "value"].map(name => byId("curves-" + name));
  const WIDTH = 720, HEIGHT = 380, LEFT = 72, RIGHT = 12, TOP = 10, BOTTOM = 54;
  let lines = [], at = null;  // lines: {recipe, run, points: [x, y, value]}; at: [line, epoch]

  function element(name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // Round values between low and high, some five of them.
  function ticks(low, high) {
    const raw = (high - low) / 5 || 1, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= raw);
    const found = [];
    for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) found.push(+v.toPrecision(12));
    return found;
  }

  function draw() {
    const [first, second, value] = choices.map(c => c.value);
    const shown = [first, second].filter((name, i, all) => name && all.indexOf(name) === i).map(n => recipes.get(n));
    const label = choices[2].selectedOptions[0].textContent;
    const all = shown.flatMap(r => r.runs.flatMap(run => run[value]));
    const epochs = Math.max(...shown.flatMap(r => r.runs.map(run => run[value].length)));
    let low = Math.min(...all), high = Math.max(...all);
    if (low === high) { low -= 1; high += 1; }
    const x = epoch => LEFT + (WIDTH - LEFT - RIGHT) * (epochs < 2 ? 0.5 : (epoch - 1) / (epochs - 1));
    const y = v => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (v - low) / (high - low);
    plot.replaceChildren();
    for (const v of ticks(low, high)) {
      plot.append(element("line", {x1: LEFT, x2: WIDTH - RIGHT, y1: y(v), y2: y(v), class: "curves-grid"}));
      plot.append(element("text", {x: LEFT - 8, y: y(v) + 5, "text-anchor": "end"}, v));
    }
    for (const e of ticks(1, epochs).filter(Number.isInteger)) {
      plot.append(element("text", {x: x(e), y: HEIGHT - BOTTOM + 22, "text-anchor": "middle"}, e));
    }
    plot.append(element("text", {x: (LEFT + WIDTH) / 2, y: HEIGHT - 5, "text-anchor": "middle"}, "epoch"));
    plot.append(element("text", {x: -(HEIGHT - BOTTOM) / 2, y: 20, "text-anchor": "middle", transform: "rotate(-90)"}, label));
    lines = shown.flatMap((recipe, i) => recipe.runs.map(run => {
      const points = run[value].map((v, e) => [x(e + 1), y(v), v]);
      const of = {class: `curves-line curves-${i}`};
      plot.append(points.length > 1
        ? element("polyline", {...of, points: points.map(p => p.slice(0, 2).map(c => c.toFixed(1))).join(" ")})
        : element("circle", {...of, cx: points[0][0], cy: points[0][1], r: 4}));
      return {recipe, run, points, order: i};
    }));
    plot.append(element("circle", {id: "curves-mark", r: 5, cx: -9, cy: -9}));
    at = null;
    told.textContent = shown.map(r => `${r.title}: ${r.runs.length === 1 ? "one run" : r.runs.length + " runs"}`).join("; ")
      + ". Point at a curve, or press an arrow key.";
  }

  function tell(line, epoch) {
    const found = lines[line], point = found.points[epoch];
    at = [line, epoch];
    byId("curves-mark").setAttribute("cx", point[0]);
    byId("curves-mark").setAttribute("cy", point[1]);
    byId("curves-mark").setAttribute("class", `curves-${found.order}`);
    const [what, unit] = choices[2].selectedOptions[0].textContent.split(",");
    const value = `${what} ${point[2]}${unit || ""}`;
    told.textContent = `${found.recipe.title}, seed ${found.run.seed}, epoch ${epoch + 1}: ${value} (${found.run.machine})`;
  }

  plot.addEventListener("pointermove", event => {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(plot.getScreenCTM().inverse());
    let best = Infinity, where = null;
    lines.forEach((line, i) => line.points.forEach(([px, py], e) => {
      const far = (px - place.x) ** 2 + (py - place.y) ** 2;
      if (far < best) { best = far; where = [i, e]; }
    }));
    if (where) tell(...where);
  });
  plot.addEventListener("keydown", event => {
    const [right, down] = {ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1]}[event.key] || [0, 0];
    if (!right && !down) return;
    event.preventDefault();
    const line = at ? (at[0] + down + lines.length) % lines.length : 0;
    tell(line, at ? Math.min(Math.max(at[1] + right, 0), lines[line].points.length - 1) : 0);
  });
  for (const choice of choices) choice.addEventListener("change", draw);
  byId("curves").hidden = false;
  draw();
})();
