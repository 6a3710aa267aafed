"use strict";
// Draws the plots of a report. The data holds, for each plot, a `spec` with a `kind`:
//   curves   lines of runs and bands of groups over one of three axes; horizontal lines
//   bars     stacked horizontal bars, with names of rows and shares
//   heat     values of rows over intervals of time
//   matrix   values of rows against columns
//   points   series of points with intervals
//   scatter  one point for each trial of a sweep
//   lineage  points in rows, and lines between them
(function () {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const COLOURS = 8;
  const NARROW = 560; // pixels; below it, plots give less room to labels and leave dragging to the page
  const ACTIVITY_COLOURS = {
    stepping: "--series-2", inferring: "--series-0", learning: "--series-1", serving: "--series-6",
    evaluating: "--series-3", sending: "--series-4", recording: "--series-5",
  };
  const state = { axis: "steps", hidden: new Set() };
  let style = getComputedStyle(document.documentElement);

  const variable = (name) => style.getPropertyValue(name).trim();
  const single = data.groups.length === 1;
  const place = (run) => (single ? run : data.runs[run].group);
  const colourOf = (number) => variable("--series-" + (number % COLOURS));
  const dashOf = (number) => DASHES[Math.floor(number / COLOURS) % DASHES.length];
  // Plotly reads a part of HTML in texts; names of files must not be taken for it.
  const safe = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const isNarrow = () => window.innerWidth < NARROW;
  const isPrinting = () => document.documentElement.classList.contains("printing");

  function wrapped(text, width) {
    const lines = [""];
    for (const word of String(text).split(" ")) {
      const last = lines[lines.length - 1];
      if (last && last.length + word.length + 1 > width) lines.push(word);
      else lines[lines.length - 1] = last ? last + " " + word : word;
    }
    return lines.map((line) => safe(line.length > width ? line.slice(0, width - 1) + "…" : line)).join("<br>");
  }

  function transparent(colour, opacity) {
    const value = parseInt(colour.slice(1), 16);
    return `rgba(${value >> 16}, ${(value >> 8) & 255}, ${value & 255}, ${opacity})`;
  }

  function shownRun(run) {
    return !state.hidden.has("run-" + run);
  }

  function shownGroup(group) {
    return data.groups[group].runs.some(shownRun);
  }

  // ---- traces of each kind

  function curves(spec) {
    const traces = [];
    const banded = new Set(spec.bands.filter((band) => band.axes[state.axis]).map((band) => band.group));
    for (const line of spec.lines) {
      if (!shownRun(line.run)) continue;
      const run = data.runs[line.run];
      const behind = banded.has(run.group);
      const colour = colourOf(place(line.run));
      traces.push({
        type: "scatter", mode: line.marks ? "lines+markers" : "lines", name: safe(run.label),
        x: (line.x || run.axes)[state.axis], y: line.y, connectgaps: true,
        line: { color: behind ? transparent(colour, 0.4) : colour, width: behind ? 1 : 1.8, dash: dashOf(place(line.run)) },
        marker: { size: 5 },
        hovertemplate: "%{y:.4~g}<extra>" + wrapped(run.label, 40) + "</extra>",
      });
    }
    for (const band of spec.bands) {
      const points = band.axes[state.axis];
      if (!points || !shownGroup(band.group)) continue;
      const colour = colourOf(single ? 0 : band.group);
      const name = wrapped(data.groups[band.group].name, 40);
      traces.push({
        type: "scatter", mode: "lines", x: points.x.concat(points.x.slice().reverse()),
        y: points.high.concat(points.low.slice().reverse()), fill: "toself", fillcolor: transparent(colour, 0.18),
        line: { width: 0 }, hoverinfo: "skip",
      });
      traces.push({
        type: "scatter", mode: "lines", x: points.x, y: points.mean, line: { color: colour, width: 2.8 },
        hovertemplate: "%{y:.4~g}<extra>mean, " + name + "</extra>",
      });
    }
    const lines = (spec.horizontal || []).filter((line) => shownRun(line.run));
    const layout = {
      xaxis: { title: { text: data.axis_titles[state.axis] } },
      yaxis: { title: { text: safe(spec.unit) }, rangemode: spec.least === 0 ? "tozero" : "normal" },
      hovermode: "x",
      shapes: lines.map((line) => ({
        type: "line", xref: "paper", x0: 0, x1: 1, y0: line.y, y1: line.y,
        line: { color: colourOf(place(line.run)), width: 1.5, dash: "dot" },
      })),
      annotations: lines.map((line) => ({
        xref: "paper", x: 1, xanchor: "right", y: line.y, yanchor: "bottom", text: wrapped(line.text, 40),
        showarrow: false, font: { size: 11 },
      })),
    };
    return [traces, layout, 320];
  }

  function bars(spec) {
    const width = isNarrow() ? 20 : 48;
    const keep = spec.labels.map((_, row) => row).filter((row) => shownRun(spec.runs[row]));
    const labels = keep.map((row) => spec.labels[row]);
    const positions = labels.map((_, row) => row);
    const traces = spec.stacks.map((stack) => {
      const name = ACTIVITY_COLOURS[stack.name];
      const quiet = stack.name === "rest" ? 0.1 : stack.name === "held" ? 0.45 : 0.25;
      return {
        type: "bar", orientation: "h", name: stack.name, y: positions, x: keep.map((row) => stack.x[row]),
        marker: { color: name ? variable(name) : transparent(variable("--series-7"), quiet) },
        customdata: labels.map(safe), hovertemplate: stack.name + " %{x:.1%}<extra>%{customdata}</extra>",
      };
    });
    const layout = {
      barmode: "stack", bargap: 0.25, showlegend: true,
      legend: { orientation: "h", y: 1, yanchor: "bottom", x: 0, xanchor: "left", traceorder: "normal" },
      xaxis: { tickformat: ".0%", range: [0, 1] },
      yaxis: {
        autorange: "reversed", tickvals: positions, ticktext: labels.map((label) => wrapped(label, width)),
        automargin: true, showgrid: false, zeroline: false,
      },
      margin: { t: isNarrow() ? 110 : 50 },
    };
    return [traces, layout, 110 + (isNarrow() ? 52 : 26) * Math.max(1, labels.length)];
  }

  function heat(spec) {
    const many = spec.y.length > 40;
    const trace = {
      type: "heatmap", x: spec.x, y: spec.y.map((_, row) => row), z: spec.z, zmin: 0, zmax: 1,
      text: spec.text.map((row) => row.map(safe)), customdata: spec.y.map((name) => spec.text[0].map(() => safe(name))),
      colorscale: workScale(), hovertemplate: "%{text}<extra>%{customdata}</extra>", hoverongaps: false,
      colorbar: { tickformat: ".0%", thickness: 12, len: 1 },
    };
    const layout = {
      xaxis: { title: { text: spec.x_title }, showgrid: false },
      yaxis: {
        autorange: "reversed", automargin: true, showgrid: false, zeroline: false,
        ...(many ? { title: { text: "rank" } } : {
          tickvals: spec.y.map((_, row) => row), ticktext: spec.y.map((name) => wrapped(name, isNarrow() ? 12 : 40)),
        }),
      },
    };
    if (isNarrow()) trace.showscale = false;
    return [[trace], layout, Math.min(900, 110 + Math.max(many ? 5 : isNarrow() ? 44 : 24, 0) * spec.y.length)];
  }

  function workScale() {
    return [[0, transparent(variable("--series-0"), 0.04)], [1, variable("--series-0")]];
  }

  function matrix(spec) {
    const trace = {
      type: "heatmap", x: spec.x.map((_, column) => column), y: spec.y.map((_, row) => row), z: spec.z, zmin: 0, zmax: 1,
      text: spec.text, customdata: spec.y.map((row) => spec.x.map((column) => safe(row) + " – " + safe(column))),
      colorscale: [[0, variable("--series-1")], [0.5, variable("--panel")], [1, variable("--series-0")]],
      hovertemplate: "%{z:.3f} (%{text})<extra>%{customdata}</extra>", hoverongaps: false,
      colorbar: { title: { text: spec.z_title, side: "right" }, thickness: 12 },
    };
    const ticks = (names, most) => {
      const every = Math.ceil(names.length / most);
      const kept = names.map((_, number) => number).filter((number) => number % every === 0);
      return { tickvals: kept, ticktext: kept.map((number) => wrapped(names[number], 18)) };
    };
    const layout = {
      xaxis: { ...ticks(spec.x, isNarrow() ? 6 : 24), tickangle: -60, automargin: true, showgrid: false },
      yaxis: { ...ticks(spec.y, 24), autorange: "reversed", automargin: true, showgrid: false },
    };
    if (isNarrow()) trace.showscale = false;
    return [[trace], layout, Math.min(820, 220 + 22 * spec.y.length)];
  }

  function points(spec) {
    const traces = spec.series.map((series, number) => ({
      type: "scatter", mode: "lines+markers", name: safe(series.name), x: series.x, y: series.y,
      error_y: {
        type: "data", symmetric: false, thickness: 1, width: 2,
        array: series.high.map((high, row) => (high === null ? 0 : high - series.y[row])),
        arrayminus: series.low.map((low, row) => (low === null ? 0 : series.y[row] - low)),
      },
      line: { color: colourOf(number), dash: dashOf(number), width: 1.6 }, marker: { size: 6 },
      text: series.text.map(safe), hovertemplate: "%{y:+.0f}<extra>%{text}</extra>",
    }));
    const layout = {
      showlegend: true, legend: { orientation: "h", y: -0.25, yanchor: "top" },
      xaxis: { title: { text: spec.x_title } }, yaxis: { title: { text: spec.y_title } },
    };
    return [traces, layout, 400];
  }

  function lineage(spec) {
    const traces = spec.links.map((link) => ({
      type: "scatter", mode: "lines", x: [link[0], link[2]], y: [link[1], link[3]], hoverinfo: "skip",
      line: { color: transparent(colourOf(link[1]), 0.15 + 0.6 * link[4]), width: 0.8 + 2 * link[4] },
    }));
    traces.push({
      type: "scatter", mode: "markers", x: spec.points.map((point) => point[0]), y: spec.points.map((point) => point[1]),
      marker: { size: 9, color: spec.points.map((point) => colourOf(point[1])) },
      text: spec.points.map((point) => safe(point[2])), hovertemplate: "%{text}<extra></extra>",
    });
    const layout = {
      xaxis: { title: { text: "order of freezing" }, showgrid: false },
      yaxis: {
        tickvals: spec.members.map((_, row) => row), ticktext: spec.members.map((name) => wrapped(name, isNarrow() ? 10 : 24)),
        automargin: true, autorange: "reversed", zeroline: false,
      },
    };
    return [traces, layout, Math.min(800, 180 + 46 * spec.members.length)];
  }

  function scatter(spec) {
    const kept = spec.y.map((_, point) => point).filter((point) => spec.runs[point] === null || shownRun(spec.runs[point]));
    const colours = kept.map((point) => (spec.runs[point] === null ? variable("--series-7") : colourOf(place(spec.runs[point]))));
    const trace = {
      type: "scatter", mode: "markers", x: kept.map((point) => (typeof spec.x[point] === "string" ? safe(spec.x[point]) : spec.x[point])),
      y: kept.map((point) => spec.y[point]), text: kept.map((point) => safe(spec.text[point])),
      marker: {
        size: 9, symbol: kept.map((point) => (spec.hollow[point] ? "circle-open" : "circle")),
        color: colours, line: { color: colours, width: 1.5 },
      },
      hovertemplate: "%{x}: %{y:.4~g}<extra>%{text}</extra>",
    };
    const layout = {
      xaxis: { title: { text: safe(spec.x_title) }, type: typeof spec.x[0] === "string" ? "category" : spec.log ? "log" : "linear" },
      yaxis: { title: { text: safe(spec.unit) } },
    };
    return [[trace], layout, 320];
  }

  const KINDS = { curves, bars, heat, matrix, points, scatter, lineage };

  // ---- drawing

  function base(height) {
    const axis = { gridcolor: variable("--line"), zerolinecolor: variable("--line"), linecolor: variable("--line"), automargin: true };
    return {
      height, showlegend: false, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: variable("--ink"), size: 12, family: "system-ui, sans-serif" },
      margin: { l: 50, r: 14, t: 14, b: 44 }, xaxis: { ...axis }, yaxis: { ...axis },
      dragmode: isNarrow() ? false : "zoom",
      hoverlabel: { namelength: -1 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: variable("--quiet"), activecolor: variable("--ink") },
    };
  }

  function merged(one, other) {
    const result = { ...one };
    for (const [key, value] of Object.entries(other)) {
      const both = value && typeof value === "object" && !Array.isArray(value) && result[key];
      result[key] = both ? merged(result[key], value) : value;
    }
    return result;
  }

  function draw(id) {
    const element = document.getElementById(id);
    const spec = data.plots[id];
    element.dataset.drawn = "yes";
    const figure = element.closest("figure");
    if (["heat", "matrix", "points", "lineage"].includes(spec.kind)) figure.hidden = !shownRun(spec.run);
    if (figure.hidden) return;
    const [traces, layout, height] = KINDS[spec.kind](spec);
    if (isPrinting()) layout.width = element.clientWidth;
    element.style.height = height + "px"; // a responsive plot takes the height of its element
    const config = { responsive: true, displaylogo: false, displayModeBar: isNarrow() || isPrinting() ? false : "hover" };
    const changed = element.dataset.printing !== String(isPrinting());
    element.dataset.printing = String(isPrinting());
    // react() keeps the size and the buttons of an earlier drawing
    (changed ? Plotly.newPlot : Plotly.react)(element, traces, merged(base(height), layout), config);
  }

  const waiting = new Set(Object.keys(data.plots));
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) drawFirst(entry.target.id);
  }, { rootMargin: "600px" });

  function drawFirst(id) {
    if (!waiting.delete(id)) return;
    observer.unobserve(document.getElementById(id));
    draw(id);
  }

  function drawAll() {
    for (const id of [...waiting]) drawFirst(id);
  }

  function redraw() {
    style = getComputedStyle(document.documentElement);
    paintSwatches();
    for (const id of Object.keys(data.plots)) if (!waiting.has(id)) draw(id);
  }

  function paintSwatches() {
    for (const swatch of document.querySelectorAll(".swatch[data-run]"))
      swatch.style.background = colourOf(place(Number(swatch.dataset.run)));
  }

  // ---- controls

  function remember() {
    try {
      sessionStorage.setItem("hpcmarl-report", JSON.stringify({ axis: state.axis, hidden: [...state.hidden] }));
    } catch (error) { /* the browser does not allow it; the choice is then lost at the next load */ }
  }

  function recall() {
    try {
      const kept = JSON.parse(sessionStorage.getItem("hpcmarl-report") || "{}");
      if (data.axis_titles[kept.axis]) state.axis = kept.axis;
      for (const name of kept.hidden || []) state.hidden.add(name);
    } catch (error) { /* as above */ }
  }

  function checkbox(text, checked, colour, change) {
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = checked;
    box.addEventListener("change", () => change(box.checked));
    label.append(box, " ");
    if (colour !== null) {
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.dataset.run = colour;
      label.append(swatch);
    }
    label.append(text);
    return label;
  }

  function chooser() {
    const holder = document.getElementById("shown");
    if (data.runs.length < 2) {
      holder.remove();
      return;
    }
    const list = document.createElement("ul");
    data.groups.forEach((group, number) => {
      const item = document.createElement("li");
      const alone = group.runs.length === 1;
      const name = alone && !single ? group.name + " (" + data.runs[group.runs[0]].label + ")" : group.name;
      const runs = document.createElement("ul");
      const choose = (checked) => {
        for (const run of group.runs) state.hidden[checked ? "delete" : "add"]("run-" + run);
        for (const box of runs.querySelectorAll("input")) box.checked = checked;
        remember();
        redraw();
      };
      item.append(checkbox(name, shownGroup(number), single ? null : group.runs[0], choose));
      if (!alone) {
        for (const run of group.runs) {
          const chooseOne = (checked) => {
            state.hidden[checked ? "delete" : "add"]("run-" + run);
            remember();
            redraw();
          };
          const one = document.createElement("li");
          one.append(checkbox(data.runs[run].label, shownRun(run), single ? run : null, chooseOne));
          runs.append(one);
        }
        item.append(runs);
      }
      list.append(item);
    });
    holder.append(list);
  }

  recall();
  chooser();
  paintSwatches();
  for (const box of document.querySelectorAll("input[name=axis]")) {
    box.checked = box.value === state.axis;
    box.addEventListener("change", () => {
      state.axis = box.value;
      remember();
      redraw();
    });
  }
  for (const id of waiting) observer.observe(document.getElementById(id));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let narrow = isNarrow();
  addEventListener("resize", () => {
    if (narrow === isNarrow()) return;
    narrow = isNarrow();
    redraw();
  });
  addEventListener("beforeprint", () => {
    document.documentElement.classList.add("printing");
    drawAll();
    redraw();
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("printing");
    redraw();
  });
  window.hpcmarlReport = { drawAll, waiting };
})();
