"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);
const steps = data.steps, agents = data.agents, drawn = data.drawn;
const calm = matchMedia("(prefers-reduced-motion: reduce)");
let at = 0, timer = null;  // place 0..steps: before step 1, ..., after the last step

const returns = data.rewards.map((own) => {
  let total = 0;
  return [0, ...own.map((reward) => (total += reward))];
});
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const hue = (agent) => "var(--c" + (agent % 8) + ")";
const number = (value) => (value === null || value === undefined ? "" : (+value.toPrecision(4)).toString());

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function row(cells, heading) {
  const made = element("tr");
  cells.forEach(([text, kind], place) => {
    const cell = element(heading || place === 0 ? "th" : "td", text, kind);
    if (heading || place === 0) cell.scope = heading ? "col" : "row";
    made.append(cell);
  });
  return made;
}

function dotted(agent) {
  const dot = element("span", undefined, "dot");
  dot.style.background = hue(agent);
  dot.setAttribute("aria-hidden", "true");
  return dot;
}

// ---- canvases

function prepare(canvas, height) {
  const ratio = devicePixelRatio || 1, width = canvas.clientWidth;
  canvas.style.height = height + "px";
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  const brush = canvas.getContext("2d");
  brush.setTransform(ratio, 0, 0, ratio, 0, 0);
  brush.clearRect(0, 0, width, height);
  brush.font = "12px system-ui, sans-serif";
  return [brush, width, height];
}

function frameOf(place) {
  return Math.min(Math.ceil(place / drawn.every), drawn.frames.length - 1);
}

function drawScene() {
  const canvas = by("scene");
  const [left, bottom, right, top] = drawn.view;
  const room = Math.min(canvas.clientWidth, 900), share = (top - bottom) / (right - left);
  const high = Math.max(160, Math.min(room * share, innerHeight * 0.7));
  const [brush, width, height] = prepare(canvas, high);
  const scale = Math.min(width / (right - left), height / (top - bottom));
  const x = (value) => width / 2 + (value - (left + right) / 2) * scale;
  const y = (value) => height / 2 - (value - (bottom + top) / 2) * scale;
  brush.strokeStyle = colour("line");
  brush.strokeRect(x(left) + 0.5, y(top) + 0.5, (right - left) * scale - 1, (top - bottom) * scale - 1);
  for (const [kind, name, px, py, a, b, label, level] of drawn.frames[frameOf(at)]) {
    const shade = colour(data.colours[name]), radius = Math.max(2, a * scale);
    brush.fillStyle = brush.strokeStyle = shade;
    brush.lineWidth = kind === 3 ? 2 : 1;
    brush.beginPath();
    if (kind === 2) brush.rect(x(px - a / 2), y(py + b / 2), a * scale, b * scale);
    else if (kind === 3) { brush.moveTo(x(px), y(py)); brush.lineTo(x(a), y(b)); }
    else brush.arc(x(px), y(py), radius, 0, 2 * Math.PI);
    if (kind === 0 || kind === 2) brush.fill(); else brush.stroke();
    if (label) {
      const inside = radius > 9 && label.length < 3;
      brush.textAlign = "center";
      brush.textBaseline = "middle";
      brush.font = (inside ? Math.min(radius, 22) : 12) + "px system-ui, sans-serif";
      brush.fillStyle = inside ? colour("on-shape") : colour("ink");
      brush.fillText(label, x(px), inside ? y(py) : y(py) - radius - (level === undefined ? 8 : 14));
    }
    if (level !== undefined && level !== null) {
      const wide = Math.max(14, 2 * radius);
      brush.fillStyle = colour("line");
      brush.fillRect(x(px) - wide / 2, y(py) - radius - 7, wide, 4);
      brush.fillStyle = shade;
      brush.fillRect(x(px) - wide / 2, y(py) - radius - 7, wide * level, 4);
    }
  }
}

// The generic view: a strip for each agent; a row is an element of its observation, a column a step.
const strips = (data.strips || []).map((strip) => {
  const bytes = Uint8Array.from(atob(strip.values), (letter) => letter.charCodeAt(0));
  return { ...strip, bytes };
});

function drawStrips() {
  const gap = 22, lines = strips.reduce((sum, strip) => sum + strip.agents.length, 0);
  const tall = strips.map((strip) => Math.min(150, Math.max(24, strip.features * 4)));
  const high = strips.reduce((sum, strip, i) => sum + strip.agents.length * (tall[i] + gap), 4);
  const [brush, width] = prepare(by("scene"), lines ? high : 40);
  brush.fillStyle = colour("soft");
  if (!lines) brush.fillText("Observations are not in this page.", 4, 24);
  let top = 0;
  strips.forEach((strip, place) => {
    strip.agents.forEach((agent, column) => {
      const image = new ImageData(strip.columns, strip.features);
      for (let t = 0; t < strip.columns; t++) {
        for (let f = 0; f < strip.features; f++) {
          const value = strip.bytes[(t * strip.agents.length + column) * strip.features + f] / 255;
          const pixel = 4 * (f * strip.columns + t), low = [34, 40, 110], high = [250, 220, 90];
          for (let c = 0; c < 3; c++) image.data[pixel + c] = low[c] + value * (high[c] - low[c]);
          image.data[pixel + 3] = 255;
        }
      }
      const small = document.createElement("canvas");
      small.width = strip.columns;
      small.height = strip.features;
      small.getContext("2d").putImageData(image, 0, 0);
      brush.fillStyle = colour("ink");
      brush.textBaseline = "alphabetic";
      brush.fillText(agent + ": observation, " + strip.features + (strip.features === 1 ? " number" : " numbers"), 0, top + 15);
      brush.imageSmoothingEnabled = false;
      brush.drawImage(small, 0, top + gap - 2, width, tall[place]);
      brush.strokeStyle = colour("rival");
      brush.lineWidth = 2;
      const mark = (Math.min(at, steps - 1) + 0.5) / steps * width;
      brush.strokeRect(mark - Math.max(1, width / steps / 2), top + gap - 2, Math.max(2, width / steps), tall[place]);
      top += tall[place] + gap;
    });
  });
}

function drawLines(id, series, mark, bars) {
  const [brush, width, height] = prepare(by(id), 144);
  const flat = series.flat();
  let low = flat.reduce((a, b) => Math.min(a, b), 0), high = flat.reduce((a, b) => Math.max(a, b), 0);
  if (low === high) { low -= 1; high += 1; }
  const edge = 56, last = Math.max(1, series[0].length - 1);
  const x = (step) => edge + (step / last) * (width - edge - 8);
  const y = (value) => 8 + ((high - value) / (high - low)) * (height - 32);
  brush.textAlign = "right";
  brush.textBaseline = "middle";
  brush.lineWidth = 1;
  for (const value of new Set([low, 0, high])) {
    brush.fillStyle = colour("soft");
    brush.fillText(number(value), edge - 6, y(value));
    brush.strokeStyle = colour("line");
    brush.beginPath(); brush.moveTo(edge, y(value)); brush.lineTo(width - 8, y(value)); brush.stroke();
  }
  brush.textAlign = "center";
  brush.fillText(bars ? "1" : "0", x(0), height - 8);
  brush.fillText("step " + steps, x(last) - 20, height - 8);
  series.forEach((own, agent) => {
    brush.strokeStyle = colour("c" + (agent % 8));
    brush.lineWidth = 1.75;
    brush.setLineDash(agent >= 8 ? [4, 3] : []);
    brush.beginPath();
    own.forEach((value, step) => (step ? brush.lineTo(x(step), y(value)) : brush.moveTo(x(0), y(value))));
    brush.stroke();
  });
  brush.setLineDash([]);
  brush.strokeStyle = colour("ink");
  brush.lineWidth = 1;
  brush.beginPath(); brush.moveTo(x(mark), 4); brush.lineTo(x(mark), height - 24); brush.stroke();
}

// ---- the page

function show(place) {
  at = Math.max(0, Math.min(steps, place));
  by("scrub").value = at;
  const text = at < steps ? "Step " + (at + 1) + " of " + steps : "End after " + steps + " steps";
  by("status").textContent = text;
  by("scrub").setAttribute("aria-valuetext", text);
  by("now-title").textContent = at < steps ? "Step " + (at + 1) : "End: " + data.end;
  agents.forEach((agent, index) => {
    const cells = by("now").rows[index].cells, last = Math.min(at, steps - 1);
    const word = at < steps ? data.words[data.actions[index][at]] : "";
    const acts = at < steps && word !== "";
    cells[1].textContent = acts ? word : at < steps ? "does not act" : "";
    cells[1].className = acts ? "" : "out";
    cells[2].textContent = at < steps ? number(data.rewards[index][at]) : "";
    cells[3].textContent = number(returns[index][Math.min(at + 1, steps)]);
    data.extras.forEach((extra, column) => {
      cells[4 + column].textContent = acts ? number(extra.values[index][last]) : "";
    });
  });
  draw();
  if (at === steps) pause();
}

function draw() {
  if (drawn && drawn.kind === "pictures") {
    by("picture").src = drawn.pictures[drawn.frames[frameOf(at)]];
    by("picture").alt = "Environment, " + by("status").textContent;
  } else {
    if (drawn) drawScene(); else drawStrips();
    by("scene").setAttribute("aria-label", (drawn ? "Scene, " : "Observations, ") + by("status").textContent);
  }
  drawLines("returns", returns, Math.min(at + 1, steps), false);
  drawLines("rewards", data.rewards, Math.min(at, steps - 1), true);
}

function pause() {
  clearInterval(timer);
  timer = null;
  by("play").textContent = "Play";
  by("play").setAttribute("aria-label", "Play");
  by("status").setAttribute("aria-live", "polite");
}

function play() {
  if (at >= steps) show(0);
  by("play").textContent = "Pause";
  by("play").setAttribute("aria-label", "Pause");
  by("status").setAttribute("aria-live", "off");
  clearInterval(timer);
  timer = setInterval(() => show(at + 1), 1000 / +by("speed").value);
}

const toggle = () => (timer === null ? play() : pause());
const go = (place) => { pause(); show(place); };

function fillAll() {
  if (by("all-rows").childElementCount) return;
  const heads = agents.flatMap((agent) => [[agent.name + ": action"], [agent.name + ": reward", "number"]]);
  by("all-head").append(row([["Step"], ...heads, ["mean return", "number"]], true));
  for (let step = 0; step < steps; step++) {
    const cells = agents.flatMap((agent, index) => [
      [data.words[data.actions[index][step]]], [number(data.rewards[index][step]), "number"],
    ]);
    const mean = returns.reduce((sum, own) => sum + own[step + 1], 0) / agents.length;
    by("all-rows").append(row([[String(step + 1)], ...cells, [number(mean), "number"]], false));
  }
}

function build() {
  by("title").textContent = data.title;
  for (const [name, value] of data.facts) {
    const pair = element("div");
    pair.append(element("dt", name), element("dd", value));
    by("facts").append(pair);
  }
  data.notes.forEach((note) => by("notes").append(element("p", note)));
  const heads = [["Agent"], ["Action"], ["Reward", "number"], ["Return", "number"]];
  by("now-head").append(row([...heads, ...data.extras.map((extra) => [extra.name, "number"])], true));
  agents.forEach((agent, index) => {
    const blank = [["", ""], ["", "number"], ["", "number"], ...data.extras.map(() => ["", "number"])];
    const made = row([[agent.name], ...blank], false);
    made.cells[0].prepend(dotted(index));
    by("now").append(made);
    const entry = element("li", agent.name);
    entry.prepend(dotted(index));
    by("legend").append(entry);
  });
  by("scrub").max = steps;
  if (drawn && drawn.kind === "pictures") {
    by("scene").hidden = true;
    by("picture").hidden = false;
  }
  if (calm.matches) by("speed").value = "1";
  by("play").addEventListener("click", toggle);
  by("back").addEventListener("click", () => go(at - 1));
  by("next").addEventListener("click", () => go(at + 1));
  by("scrub").addEventListener("input", () => go(+by("scrub").value));
  by("speed").addEventListener("change", () => timer !== null && play());
  by("all").addEventListener("toggle", () => by("all").open && fillAll());
  addEventListener("resize", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("keydown", (event) => {
    const name = event.target.tagName;
    if (event.ctrlKey || event.metaKey || event.altKey || name === "SELECT") return;
    if (event.key === " " && (name === "BUTTON" || name === "SUMMARY")) return;
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: steps };
    if (event.key === " ") toggle();
    else if (event.key in moves && !event.target.classList.contains("scroll")) go(moves[event.key]);
    else return;
    event.preventDefault();
  });
  show(0);
}

build();
