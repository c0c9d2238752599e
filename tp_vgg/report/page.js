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
  const left = new Map(widths);  // Channels kept, by layer.
  let multiple = data.round_to;  // The kept channels are multiples of it, or the full width.
  const blocks = new Map([...document.querySelectorAll("[data-block]")].map((block) => {
    const [was, is] = block.querySelectorAll("rect");
    const full = Number(was.getAttribute("width"));
    return [block.dataset.block, { full, is, now: block.querySelector(".now") }];
  }));

  // Kept channels rounded up as `structured --round-to` does.
  const rounded = (kept, width) => Math.min(Math.ceil(kept / multiple) * multiple, width);

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

  // Parameters, MACs and microseconds of one layer.
  function layerSizes(row, before, output) {
    const weights = (row.weights / (row.in * row.out)) * row.reads * before * output;
    const grid = data.time?.layers[row.name];
    return {
      params: weights + ((row.params - row.weights) / row.out) * output,
      macs: weights * row.side ** 2,
      time: grid ? microseconds(grid, before, output) : 0,
    };
  }

  // The same of the network with the widths `left`, by layer.
  function sizes(left) {
    const total = { params: 0, macs: 0, time: 0 };
    let before = 3;
    for (const row of data.rows) {
      const output = left.get(row.name) ?? row.out, own = layerSizes(row, before, output);
      for (const unit in total) total[unit] += own[unit];
      before = output;
    }
    return total;
  }

  // Losses add up over the layers: each layer keeps its own share of the accuracy above chance that
  // the others left, and a loss is -log of that share. It is null beyond the sweep's ratios.
  const aboveChance = data.accuracy === null ? 0 : data.accuracy - data.chance;
  function loss(layer, kept) {
    const level = 1 - kept / widths.get(layer), curve = data.curves[layer];
    if (level === 0) return 0;
    if (!curve || level > curve.levels[curve.levels.length - 1] + 1e-9) return null;
    const share = 1 - between(curve.levels, curve.drops, level) / Math.max(aboveChance, 1e-9);
    return -Math.log(Math.min(Math.max(share, 1e-4), 1));
  }
  const dropOf = (loss) => aboveChance * -Math.expm1(-loss);

  // The predicted drop in percentage points with all layers pruned, and the layers that are pruned
  // further than the sweep.
  function predicted(left) {
    if (data.accuracy === null) return { drop: null, unknown: [] };
    const losses = [...left].map(([layer, kept]) => [layer, loss(layer, kept)]);
    const unknown = losses.filter(([, value]) => value === null).map(([layer]) => layer);
    return { drop: dropOf(losses.reduce((sum, [, value]) => sum + value, 0)), unknown };
  }

  // The narrowest 95 % interval that a measured drop of so many points can have, as `plan` gives it
  // (Bonett & Price 2012, with as many images lost and none gained).
  function interval(points) {
    const n = data.n, lost = ((points * n) / 100 + 1) / (n + 2), gained = 1 / (n + 2);
    const centre = lost - gained;
    const half = 1.959963984540054 * Math.sqrt((lost + gained - centre ** 2) / (n + 2));
    return [Math.max(centre - half, -1), Math.min(centre + half, 1)].map((end) => 100 * end);
  }
  const signed = (points) => `${points > 0 ? "+" : ""}${points.toFixed(2)}`;

  const dense = sizes(widths);

  // Show a result; `value` is the number that tests read, or null.
  function say(id, value, text, note) {
    const place = byId(id);
    place.dataset.value = value === null ? "" : String(value);
    const small = Object.assign(document.createElement("small"), { textContent: note });
    place.replaceChildren(text, document.createElement("br"), small);
  }

  function update() {
    for (const [layer, width] of widths) {
      const kept = left.get(layer), ratio = shortest(width - kept, width) || 0;
      const slider = sliders.get(layer), block = blocks.get(layer);
      // One step of the slider is one multiple. Its least value stands for the full width; it is
      // below 0 if that is no multiple.
      slider.step = multiple;
      slider.min = width - Math.ceil(width / multiple) * multiple;
      slider.max = width - Math.min(multiple, width);
      slider.value = kept < width ? width - kept : slider.min;
      byId(`keep-${layer}`).value = kept;
      byId(`kept-${layer}`).textContent = `of ${width}, ratio ${ratio}`;
      slider.setAttribute("aria-valuetext", `${kept} of ${width} kept, ratio ${ratio}`);
      block.is.setAttribute("width", (block.full * kept) / width);
      block.now.textContent = kept < width ? `→ ${kept}` : "";
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
      const rest = data.accuracy - drop, near = rest < data.chance + 1;
      const chance = near ? ` (chance: ${Number(data.chance.toPrecision(3))} %)` : "";
      const ends = interval(drop).map(signed).join(", ");
      say("drop", drop, `${signed(drop)} points`, `[${ends}], to ${rest.toFixed(2)} %${chance}`);
    }
    if (data.time) {
      const share = now.time / dense.time;
      say("time", share, `${share.toFixed(3)}×`, data.time.where);
    }
  }

  // Keep these channels by layer, rounded up; layers that are not named keep all.
  function keep(kept, note = "") {
    for (const [layer, width] of widths) left.set(layer, rounded(kept[layer] ?? width, width));
    byId("budget-note").textContent = note;
    update();
  }
  const keepOne = (layer, kept) => keep({ ...Object.fromEntries(left), [layer]: kept });

  // The content of ratios.json: the ratio of each layer that loses channels.
  function plan() {
    const ratios = {};
    for (const [layer, width] of widths) {
      const gone = width - left.get(layer);
      if (gone) ratios[layer] = shortest(gone, width);
    }
    return ratios;
  }

  // The choice of one width per layer with the least `lossWeight` * loss + `costWeight` * cost
  // (Viterbi 1967): a layer's cost depends on its own width and on that of the layer before alone.
  function cheapest(stages, lossWeight, costWeight) {
    let best = [0], paths = [];
    for (const { widths, losses, costs } of stages) {
      const next = [], from = [];
      widths.forEach((_, i) => {
        let least = Infinity, at = 0;
        const row = costs[i];
        for (let j = 0; j < best.length; j++) {
          const value = best[j] + costWeight * row[j];
          if (value < least) [least, at] = [value, j];
        }
        next.push(least + lossWeight * losses[i]);
        from.push(at);
      });
      best = next;
      paths.push(from);
    }
    const choice = [];
    let at = best.indexOf(Math.min(...best));
    for (let i = stages.length - 1; i >= 0; at = paths[i--][at]) choice.unshift(at);
    return measure(stages, choice);
  }

  function measure(stages, choice) {
    let loss = 0, cost = 0, before = 0;
    stages.forEach((stage, i) => {
      loss += stage.losses[choice[i]];
      cost += stage.costs[choice[i]][before];
      before = choice[i];
    });
    return { choice, loss, cost };
  }

  // Every layer with the widths that it may keep, their losses, and their costs (in `unit`, as
  // shares of the dense network's) for each width of the layer before.
  function chain(unit) {
    let before = [3];
    return data.rows.map((row) => {
      const options = [row.out];
      // At most about 1,000 widths of a layer, so that the search takes no longer than seconds.
      const step = multiple * Math.ceil(row.out / multiple / 1024);
      const first = row.prunable ? Math.ceil(row.out / step - 1) * step : 0;
      for (let kept = first; kept > 0 && loss(row.name, kept) !== null; kept -= step) {
        options.push(kept);
      }
      const losses = options.map((kept) => (row.prunable ? loss(row.name, kept) : 0));
      const costs = options.map((kept) =>
        Float64Array.from(before, (input) => layerSizes(row, input, kept)[unit] / dense[unit]));
      before = options;
      return { row, widths: options, losses, costs, step };
    });
  }

  // Search a plan for a budget. The Lagrangian relaxation bounds what any plan can reach (Everett
  // 1963): the multiplier goes to where the plans on both sides of the budget cost the same. Each plan
  // on the way is then moved to the budget, and the best of them is taken.
  function search(kind, share) {
    const ofDrop = kind === "drop", unit = { latency: "time", drop: "params" }[kind] ?? kind;
    const stages = chain(unit);
    // The value to minimise and the value that the budget limits.
    const [goal, bounded] = ofDrop ? ["cost", "loss"] : ["loss", "cost"];
    const lossWithin = share < aboveChance ? -Math.log1p(-share / aboveChance) : Infinity;
    const limit = ofDrop ? lossWithin : share;
    const fits = (plan) => plan[bounded] <= limit + 1e-12;
    const solve = (weight) => (ofDrop ? cheapest(stages, weight, 1) : cheapest(stages, 1, weight));
    const way = ofDrop ? 1 : -1, plans = [solve(0)];
    let over = plans[0], bound = over[goal];
    if (!fits(over)) {
      let under = ofDrop ? cheapest(stages, 1, 0) : cheapest(stages, 0, 1);
      if (!fits(under)) {
        const least = under.cost.toPrecision(3);
        return { note: `${kind}=${share}: no plan within the sweep's ratios; least: ${least}.` };
      }
      plans.push(under);
      for (let i = 0; i < 60; i++) {
        const weight = (under[goal] - over[goal]) / (over[bounded] - under[bounded]);
        const plan = solve(weight), value = plan[goal] + weight * plan[bounded];
        plans.push(plan);
        bound = Math.max(bound, value - weight * limit);
        if (value >= under[goal] + weight * under[bounded] - 1e-12) break;
        if (fits(plan)) under = plan;
        else over = plan;
      }
    }
    const ends = plans.map((plan) => moved(stages, plan, way, goal, bounded, fits));
    const best = ends.reduce((one, two) => (two[goal] < one[goal] ? two : one));
    const kept = {};
    stages.forEach(({ row, widths }, i) => {
      if (row.prunable) kept[row.name] = widths[best.choice[i]];
    });
    const command = `plan --budget ${kind}=${share} --round-to ${multiple}`;
    const coarse = stages.filter((stage) => stage.step > multiple).map((stage) => stage.row.name);
    const steps = coarse.length ? `, ${coarse.join(" and ")} in coarser steps` : "";
    // A bound is rounded down, so that it stays true.
    const least = (value, digits) =>
      (Math.floor(Math.max(value, 0) * 10 ** digits) / 10 ** digits).toFixed(digits);
    const most = ofDrop
      ? `keeps params=${best.cost.toFixed(3)}; no plan keeps less than ${least(bound, 3)}`
      : `predicts a drop of ${dropOf(best.loss).toFixed(2)} points; no plan predicts less than `
        + least(dropOf(bound), 2);
    return {
      kept,
      bound: ofDrop ? bound : dropOf(bound),
      note: `${kind}=${share}, approximate: this plan ${most} (multiples of ${multiple}${steps}). `
        + `The command ${command} searches for the best.`,
    };
  }

  // Move single layers by one width: against `way` until the plan fits, then along it as long as it
  // fits (`way` is -1 to widen, 1 to narrow). The first move is the one that is best for the goal
  // for its share of the budget.
  function moved(stages, plan, way, goal, bounded, fits) {
    for (;;) {
      const forth = fits(plan), step = forth ? way : -way;
      let best = null, most = -Infinity;
      stages.forEach((stage, i) => {
        const at = plan.choice[i] + step;
        if (at < 0 || at >= stage.widths.length) return;
        const next = measure(stages, plan.choice.with(i, at));
        if (forth && !fits(next)) return;
        const better = plan[goal] - next[goal], spent = Math.abs(next[bounded] - plan[bounded]);
        const gain = better / Math.max(spent, 1e-12);
        if (gain > most) [best, most] = [next, gain];
      });
      if (!best) return plan;
      plan = best;
    }
  }

  for (const [layer, slider] of sliders) {
    const width = widths.get(layer), typed = byId(`keep-${layer}`);
    slider.addEventListener("input", () => keepOne(layer, width - Math.max(slider.value, 0)));
    typed.addEventListener("change", () => {
      const kept = Math.round(typed.valueAsNumber);
      keepOne(layer, kept >= 1 ? kept : left.get(layer));
    });
  }
  byId("round-to").addEventListener("change", () => {
    multiple = Math.max(Math.round(byId("round-to").valueAsNumber) || multiple, 1);
    byId("round-to").value = multiple;
    keep(Object.fromEntries(left));
  });
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
  function solution() {
    byId("round-to").value = multiple = data.round_to;
    keep(data.plan ?? {});
  }
  byId("solution")?.addEventListener("click", solution);
  byId("budget")?.addEventListener("submit", (event) => {
    event.preventDefault();
    const kind = byId("budget-kind").value, limit = byId("budget-value").valueAsNumber;
    if (!(limit > 0 && (kind === "drop" || limit <= 1))) {
      const range = kind === "drop" ? "above 0 percentage points" : "above 0 and at most 1";
      byId("budget-note").textContent = `Give a budget ${range}.`;
      return;
    }
    const { kept, note, bound } = search(kind, limit);
    keep(kept ?? Object.fromEntries(left), note);
    byId("budget-note").dataset.value = bound ?? "";
  });
  byId("download").addEventListener("click", () => {
    const text = JSON.stringify(plan(), null, 1) + "\n";
    const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    Object.assign(document.createElement("a"), { href: url, download: "ratios.json" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  });
  solution();

  // Say which boxes hold more to the right.
  const boxes = document.querySelectorAll(".wide, .drawn");
  const hint = (box) => box.classList.toggle("scrolls", box.scrollWidth > box.clientWidth + 1);
  const watch = new ResizeObserver((entries) => entries.forEach((entry) => hint(entry.target)));
  for (const box of boxes) watch.observe(box);
})();
