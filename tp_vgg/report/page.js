"use strict";
// The ratio explorer: the arithmetic of VGGSpec, of ratios.json and of `plan`, over the tables that the page carries.
(() => {
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const byId = (id) => document.getElementById(id);
  const sliders = new Map([...document.querySelectorAll("[data-layer]")].map((input) => [input.dataset.layer, input]));
  const widths = new Map(data.rows.filter((row) => row.prunable).map((row) => [row.name, row.out]));
  const removed = (layer) => Number(sliders.get(layer).value);

  // Removed channels of a ratio, as structured pruning counts them; never all of a layer.
  const channels = (ratio, width) => Math.min(Math.floor(ratio * width + 0.5), width - 1);

  // The shortest decimal that comes to these channels, well away from a half.
  function shortest(gone, width) {
    for (let digits = 1; digits < 18; digits++) {
      const ratio = Number((gone / width).toFixed(digits));
      if (Math.abs(ratio * width - gone) < 0.49 && ratio < 1) return ratio;
    }
    return gone / width;
  }

  function between(xs, ys, x) {
    if (x <= xs[0]) return ys[0];
    const i = xs.findIndex((value) => value >= x);
    if (i < 0) return ys[ys.length - 1];
    return ys[i - 1] + ((ys[i] - ys[i - 1]) * (x - xs[i - 1])) / (xs[i] - xs[i - 1]);
  }

  // Microseconds of one conv, linear between the widths that were timed; below the smallest, as the smallest.
  function microseconds(grid, input, output) {
    return between(grid.ins, grid.us.map((row) => between(grid.outs, row, output)), input);
  }

  function sizes(left) {
    let params = 0, macs = 0, time = 0, before = 3;
    for (const row of data.rows) {
      const output = left.get(row.name) ?? row.out, input = row.reads * before;
      const weights = (row.weights / (row.in * row.out)) * input * output;
      params += weights + ((row.params - row.weights) / row.out) * output;
      macs += weights * row.side ** 2;
      if (data.time && data.time.layers[row.name]) time += microseconds(data.time.layers[row.name], before, output);
      before = output;
    }
    return { params, macs, time };
  }

  // Points lost with all layers pruned: each leaves its share of what the others left. Also what the sweep does not tell.
  function predicted(left) {
    if (data.accuracy === null) return { drop: null, unknown: [] };
    const known = data.accuracy - data.chance, unknown = [];
    let loss = 0;
    for (const [layer, width] of widths) {
      const level = 1 - left.get(layer) / width, curve = data.curves[layer];
      if (level === 0) continue;
      if (!curve || level > curve.levels[curve.levels.length - 1] + 1e-9) {
        unknown.push(layer);
        continue;
      }
      const share = 1 - between(curve.levels, curve.drops, level) / Math.max(known, 1e-9);
      loss -= Math.log(Math.min(Math.max(share, 1e-4), 1));
    }
    return { drop: known * -Math.expm1(-loss), unknown };
  }

  const dense = sizes(widths);

  function say(id, value, text, note) {
    const place = byId(id);
    place.dataset.value = value === null ? "" : String(value);
    place.replaceChildren(text, document.createElement("br"), Object.assign(document.createElement("small"), { textContent: note }));
  }

  function update() {
    const left = new Map([...widths].map(([layer, width]) => [layer, width - removed(layer)]));
    for (const [layer, width] of widths) {
      const text = `${left.get(layer)} of ${width} kept, ratio ${shortest(removed(layer), width) || 0}`;
      byId(`kept-${layer}`).textContent = text;
      sliders.get(layer).setAttribute("aria-valuetext", text);
    }
    const now = sizes(left), { drop, unknown } = predicted(left);
    const count = (value) => value.toLocaleString("en-US");
    say("params", now.params, `${(now.params / dense.params).toFixed(3)}×`, count(now.params));
    say("macs", now.macs, `${(now.macs / dense.macs).toFixed(3)}×`, count(now.macs));
    if (drop === null) say("drop", null, "not known", "no sweep of channels in this run");
    else if (unknown.length) say("drop", null, "not known", `${unknown.length === 1 ? unknown[0] : `${unknown.length} layers`}: past what was swept`);
    else say("drop", drop, `${drop > 0 ? "+" : ""}${drop.toFixed(2)} points`, `to ${(data.accuracy - drop).toFixed(2)} %`);
    if (data.time) say("time", now.time / dense.time, `${(now.time / dense.time).toFixed(3)}×`, data.time.where);
  }

  function keep(kept) {
    for (const [layer, width] of widths) sliders.get(layer).value = width - (kept[layer] ?? width);
    update();
  }

  function plan() {
    const found = {};
    for (const [layer, width] of widths) if (removed(layer)) found[layer] = shortest(removed(layer), width);
    return found;
  }

  for (const slider of sliders.values()) slider.addEventListener("input", update);
  byId("reset").addEventListener("click", () => keep({}));
  byId("uniform").addEventListener("submit", (event) => {
    event.preventDefault();
    const input = byId("uniform-ratio"), ratio = input.valueAsNumber;
    if (!(ratio >= 0 && ratio < 1)) {
      input.reportValidity();
      return;
    }
    const convs = data.rows.filter((row) => row.prunable && row.name.startsWith("features."));
    keep(Object.fromEntries(convs.map((row) => [row.name, row.out - channels(ratio, row.out)])));
  });
  byId("solution")?.addEventListener("click", () => keep(data.plan));
  byId("budget")?.addEventListener("submit", (event) => {
    event.preventDefault();
    keep(data.budgets[Number(byId("budget-choice").value)].kept);
  });
  byId("download").addEventListener("click", () => {
    const url = URL.createObjectURL(new Blob([JSON.stringify(plan(), null, 1) + "\n"], { type: "application/json" }));
    Object.assign(document.createElement("a"), { href: url, download: "ratios.json" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  });
  keep(data.plan ?? {});
})();
