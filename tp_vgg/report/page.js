"use strict";
// The ratio explorer. It computes parameters and MACs as the network's spec does, ratios as
// structured pruning reads them, and the drop as `plan` does, from the tables inside the page.
(() => {
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const byId = (id) => document.getElementById(id);
  const inputs = [...document.querySelectorAll("[data-layer]")];
  const sliders = new Map(inputs.map((input) => [input.dataset.layer, input]));
  const prunable = data.rows.filter((row) => row.prunable);
  const widths = new Map(prunable.map((row) => [row.name, row.out]));
  const removed = (layer) => Number(sliders.get(layer).value);

  // Channels that structured pruning removes for a ratio; it never removes all of a layer.
  const channels = (ratio, width) => Math.min(Math.floor(ratio * width + 0.5), width - 1);

  // The shortest ratio for which structured pruning removes `gone` channels. It stays clear of the
  // halves at which the rounding flips.
  function shortest(gone, width) {
    for (let digits = 1; digits < 18; digits++) {
      const ratio = Number((gone / width).toFixed(digits));
      if (Math.abs(ratio * width - gone) < 0.49 && ratio < 1) return ratio;
    }
    return gone / width;
  }

  // Linear interpolation of ys over the rising xs; constant outside of them.
  function between(xs, ys, x) {
    if (x <= xs[0]) return ys[0];
    const i = xs.findIndex((value) => value >= x);
    if (i < 0) return ys[ys.length - 1];
    return ys[i - 1] + ((ys[i] - ys[i - 1]) * (x - xs[i - 1])) / (xs[i] - xs[i - 1]);
  }

  // Microseconds of one conv: linear between the widths that were timed, constant outside of them.
  function microseconds(grid, input, output) {
    return between(grid.ins, grid.us.map((row) => between(grid.outs, row, output)), input);
  }

  // Parameters, MACs and microseconds of the network with the widths `left`, by layer.
  function sizes(left) {
    let params = 0, macs = 0, time = 0, before = 3;
    for (const row of data.rows) {
      const output = left.get(row.name) ?? row.out, input = row.reads * before;
      const weights = (row.weights / (row.in * row.out)) * input * output;
      params += weights + ((row.params - row.weights) / row.out) * output;
      macs += weights * row.side ** 2;
      const grid = data.time?.layers[row.name];
      if (grid) time += microseconds(grid, before, output);
      before = output;
    }
    return { params, macs, time };
  }

  // The predicted drop in percentage points with all layers pruned, and the layers that are pruned
  // further than the sweep. Each layer keeps its own share of the accuracy above chance that the
  // others left, so the logarithms of the shares add up.
  function predicted(left) {
    if (data.accuracy === null) return { drop: null, unknown: [] };
    const aboveChance = data.accuracy - data.chance, unknown = [];
    let loss = 0;
    for (const [layer, width] of widths) {
      const level = 1 - left.get(layer) / width, curve = data.curves[layer];
      if (level === 0) continue;
      if (!curve || level > curve.levels[curve.levels.length - 1] + 1e-9) {
        unknown.push(layer);
        continue;
      }
      const share = 1 - between(curve.levels, curve.drops, level) / Math.max(aboveChance, 1e-9);
      loss -= Math.log(Math.min(Math.max(share, 1e-4), 1));
    }
    return { drop: aboveChance * -Math.expm1(-loss), unknown };
  }

  const dense = sizes(widths);

  // Show a result; `value` is the number that tests read, or null.
  function say(id, value, text, note) {
    const place = byId(id);
    place.dataset.value = value === null ? "" : String(value);
    const small = Object.assign(document.createElement("small"), { textContent: note });
    place.replaceChildren(text, document.createElement("br"), small);
  }

  function update() {
    const left = new Map([...widths].map(([layer, width]) => [layer, width - removed(layer)]));
    for (const [layer, width] of widths) {
      const ratio = shortest(removed(layer), width) || 0;
      const text = `${left.get(layer)} of ${width} kept, ratio ${ratio}`;
      byId(`kept-${layer}`).textContent = text;
      sliders.get(layer).setAttribute("aria-valuetext", text);
    }
    const now = sizes(left), { drop, unknown } = predicted(left);
    const count = (value) => value.toLocaleString("en-US");
    say("params", now.params, `${(now.params / dense.params).toFixed(3)}×`, count(now.params));
    say("macs", now.macs, `${(now.macs / dense.macs).toFixed(3)}×`, count(now.macs));
    if (drop === null) {
      say("drop", null, "not known", "no structured sweep in this run");
    } else if (unknown.length) {
      const layers = unknown.length === 1 ? unknown[0] : `${unknown.length} layers`;
      say("drop", null, "not known", `${layers}: beyond the sweep's ratios`);
    } else {
      const sign = drop > 0 ? "+" : "";
      const rest = `to ${(data.accuracy - drop).toFixed(2)} %`;
      say("drop", drop, `${sign}${drop.toFixed(2)} points`, rest);
    }
    if (data.time) {
      const share = now.time / dense.time;
      say("time", share, `${share.toFixed(3)}×`, data.time.where);
    }
  }

  // Set the sliders to the channels kept by layer; layers that are not named keep all.
  function keep(kept) {
    for (const [layer, width] of widths) {
      sliders.get(layer).value = width - (kept[layer] ?? width);
    }
    update();
  }

  // The content of ratios.json: the ratio of each layer that loses channels.
  function plan() {
    const ratios = {};
    for (const [layer, width] of widths) {
      if (removed(layer)) ratios[layer] = shortest(removed(layer), width);
    }
    return ratios;
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
    const convs = prunable.filter((row) => row.name.startsWith("features."));
    keep(Object.fromEntries(convs.map((row) => [row.name, row.out - channels(ratio, row.out)])));
  });
  byId("solution")?.addEventListener("click", () => keep(data.plan));
  byId("budget")?.addEventListener("submit", (event) => {
    event.preventDefault();
    keep(data.budgets[Number(byId("budget-choice").value)].kept);
  });
  byId("download").addEventListener("click", () => {
    const text = JSON.stringify(plan(), null, 1) + "\n";
    const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    Object.assign(document.createElement("a"), { href: url, download: "ratios.json" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  });
  keep(data.plan ?? {});
})();
