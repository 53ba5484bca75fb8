// A view for each kind of panel. A view has an element; `load` unpacks its numbers and builds it,
// `resize` draws what is the same at all steps, `step` what is not.

/** What all views share. */
class View {
  /**
   * @param {Object} panel as `memnets.viewing.page` packs it
   * @param {Object} context `page`, `example`, `run`, `number` of the run, `first`: the panel of the
   *   same name in the first run, if this is not it; `settings`, shared by the views of a section;
   *   `axis`, whether the steps are numbered
   */
  constructor(panel, context) {
    Object.assign(this, { panel, context });
    this.element = make("div", { class: `view ${panel.kind}` });
    this.parts = [];
    this.now = 0;
  }

  /** Numbers of an array of the panel. */
  get(number) {
    return this.context.page.store.get(number);
  }

  /** The step of the panel at a step of the time line; -1 where it has none. */
  local(step) {
    const local = step - this.panel.start;
    return local >= 0 && local < this.panel.steps ? local : -1;
  }

  get steps() {
    return this.context.example.steps.length;
  }

  stepName(step) {
    return `step ${step}: ${this.context.example.steps[step]}`;
  }

  pick(step) {
    this.context.page.go(step);
  }

  /**
   * Finds the steps at which an array differs from that of the first run.
   * @param {?Numbers} mine @param {?Numbers} other with the steps as the first dimension
   * @param {number} skipped entries before the first step
   */
  differing(mine, other, skipped = 0) {
    if (!mine || !other || mine.strides[0] !== other.strides[0]) return null;
    const steps = new Set();
    // Two roundings may differ by half a level each where the numbers are the same.
    const slack = (mine.grain + other.grain) * 0.51;
    for (let step = skipped; step < Math.min(mine.shape[0], other.shape[0]); step++) {
      const from = step * mine.strides[0];
      for (let i = from; i < from + mine.strides[0]; i++) {
        const [a, b] = [mine.value(i), other.value(i)];
        if (Number.isNaN(a) !== Number.isNaN(b) || Math.abs(a - b) > slack) {
          steps.add(step - skipped);
          break;
        }
      }
    }
    if (!steps.size) return null;
    const { start } = this.panel;
    return (step) => steps.has(step - start);
  }

  /** A time line of this panel. */
  timeline(options) {
    return new Timeline({
      steps: this.steps,
      note: this.panel.note,
      axis: this.context.axis !== false,
      pick: (step) => this.pick(step),
      ...options,
    });
  }

  resize(width) {
    this.wide = width;
    for (const part of this.parts) part.resize(width);
  }

  step(step) {
    this.now = step;
  }

  /** Lines with the numbers of a step, for those who read rather than look. */
  told() {
    return [];
  }

  controls() {
    return [];
  }

  legend() {
    return [];
  }
}

class StripView extends View {
  async load() {
    const { panel, context } = this;
    const { first } = context;
    this.wrong = await this.get(panel.wrong);
    if (panel.words) {
      this.words = new Words(panel.words, {
        label: panel.name,
        pick: (i) => this.pick(panel.start + i),
        tell: (i) => [this.stepName(panel.start + i), `${panel.name}: ${panel.words[i]}`, ...(this.isWrong(i) ? ["wrong"] : [])],
        note: panel.note,
      });
      panel.words.forEach((word, i) => {
        if (this.isWrong(i)) this.words.sign(i, "wrong", "wrong");
        if (first?.words && first.words[i] !== word) this.words.sign(i, "differs", "differs");
      });
      this.element.append(make("div", { class: "strip-name" }, panel.name), this.words.element);
      return;
    }
    this.values = await this.get(panel.values);
    const other = first && (await this.get(first.values));
    const rows = this.values.shape[1];
    this.line = this.timeline({
      label: `${panel.name} over the steps, ${rows} numbers each`,
      rows,
      names: rows === 1 ? [panel.name] : null,
      numbered: false,
      height: (frame) => Math.max(16, Math.min(rows * Math.max(10, Math.min(frame.cell, 16)), 160)),
      marked: this.differing(this.values, other),
      draw: (plain, frame, height) => {
        const scale = (this.scale = new Scale(panel.low, panel.high, true));
        const box = { x: panel.start * frame.cell, y: 0, width: panel.steps * frame.cell, height };
        heat(plain, box, panel.steps, rows, (step, row) => this.values.at(step, row), scale);
        this.cross(plain, frame.cell, height / rows);
        if (rows > 1) {
          plain.fillStyle = named("text");
          plain.textAlign = "right";
          wrapped(plain, panel.name, -6, height / 2, frame.gutter - 10, height);
        }
      },
      now: (plain, width, height, step) => {
        const local = this.local(step);
        if (local < 0) return;
        const wide = width < 100 ? 10 : 24;
        heat(plain, { x: 4, y: 0, width: wide, height }, 1, rows, (_, row) => this.values.at(local, row), this.scale);
        if (height / rows < 10) return;
        plain.fillStyle = named("text");
        plain.textAlign = "left";
        for (let row = 0; row < rows; row++) {
          const mark = this.isWrong(local, row) ? " ✕" : "";
          plain.fillText(this.values.at(local, row).toFixed(2) + mark, wide + 9, ((row + 0.5) * height) / rows);
        }
      },
      probe: (step, row) => {
        const local = this.local(step);
        if (local < 0) return [this.stepName(step), `${panel.name}: nothing at this step`];
        return [
          this.stepName(step),
          `${panel.name}${rows > 1 ? `, number ${row + 1} of ${rows}` : ""}: ${this.values.text(this.values.at(local, row))}${this.isWrong(local, row) ? ", wrong" : ""}`,
        ];
      },
    });
    this.parts.push(this.line);
    this.element.append(this.line.element);
  }

  isWrong(step, row = null) {
    if (!this.wrong) return false;
    if (this.wrong.shape.length === 1) return this.wrong.at(step) > 0.5;
    if (row !== null) return this.wrong.at(step, row) > 0.5;
    return Array.from({ length: this.wrong.shape[1] }, (_, i) => this.wrong.at(step, i)).some((value) => value > 0.5);
  }

  /** Crosses on what is wrong: a shape, not a colour alone. */
  cross(context, cell, high) {
    if (!this.wrong) return;
    const one = this.wrong.shape.length === 1;
    const rows = one ? 1 : this.wrong.shape[1];
    const tall = one ? high * this.values.shape[1] : high;
    for (const [colour, width] of [["#ffffff", 3.4], ["#c1121f", 1.6]]) {
      context.strokeStyle = colour;
      context.lineWidth = Math.min(width, cell);
      for (let step = 0; step < this.panel.steps; step++) {
        for (let row = 0; row < rows; row++) {
          if (!this.isWrong(step, one ? null : row)) continue;
          const x = (this.panel.start + step + 0.5) * cell;
          const y = (row + 0.5) * tall;
          const r = Math.max(1.5, Math.min(cell, tall, 16) * 0.3);
          context.beginPath();
          context.moveTo(x - r, y - r);
          context.lineTo(x + r, y + r);
          context.moveTo(x + r, y - r);
          context.lineTo(x - r, y + r);
          context.stroke();
        }
      }
    }
  }

  step(step) {
    super.step(step);
    if (this.words) this.words.mark(this.local(step));
    else this.line.step(step);
  }

  told(step) {
    const local = this.local(step);
    const { panel } = this;
    if (local < 0) return [`${panel.name}: nothing at this step`];
    const wrong = this.isWrong(local) ? " (wrong)" : "";
    if (panel.words) return [`${panel.name}: ${panel.words[local]}${wrong}`];
    return [`${panel.name}: ${this.values.entry(local).map((value) => this.values.text(value)).join(" ")}${wrong}`];
  }

  place(step, row) {
    return this.line.place(step, row);
  }
}

class HeadsView extends View {
  async load() {
    const { panel, context } = this;
    this.weights = await this.get(panel.weights);
    this.count = this.weights.shape[1];
    this.slots = this.weights.shape[2];
    const other = context.first && (await this.get(context.first.weights));
    this.marked = this.differing(this.weights, other);
    this.image = panel.places?.kind === "grid" ? await this.get(panel.places.image) : null;
    this.images = panel.places?.kind === "images" ? await this.get(panel.places.images) : null;
    this.queries = panel.places?.kind === "images" ? await this.get(panel.places.queries) : null;
    const { settings } = context;
    settings.shown ??= this.count > 4 ? "mean" : "each";
    this.build();
  }

  name(slot) {
    return this.panel.slots[slot] ?? (this.panel.places?.kind === "plane" ? `point ${slot + 1}` : `slot ${slot}`);
  }

  /** The heads that are shown: each, the mean of all, or one. */
  shown() {
    const { shown } = this.context.settings;
    const { heads } = this.panel;
    const one = (head) => ({ name: heads[head], at: (step, slot) => this.weights.at(step, head, slot) });
    if (this.count === 1) return [one(0)];
    if (shown === "each") return heads.map((_, head) => one(head));
    return shown === "mean" ? [this.mean()] : [one(Number(shown))];
  }

  mean() {
    const at = (step, slot) => {
      let sum = 0;
      for (let head = 0; head < this.count; head++) sum += this.weights.at(step, head, slot);
      return sum / this.count;
    };
    return { name: this.count > 1 ? "mean of the heads" : this.panel.heads[0], at };
  }

  build() {
    const { panel, weights } = this;
    const shown = this.shown();
    this.parts = [];
    this.lines = [];
    const most = weights.high || 1;
    const single = shown.length === 1 ? shown[0] : this.mean();
    const tell = (step, slot) => [
      this.stepName(step + panel.start),
      ...panel.heads.slice(0, 12).map((head, i) => `${head}, ${this.name(slot)}: ${weights.text(weights.at(step, i, slot))}`),
    ];
    const long = panel.slots.length && panel.slots.reduce((sum, slot) => sum + slot.length, 0) / panel.slots.length > 16;
    const boxes = [];
    const common = { slots: panel.slots, most, grain: weights.grain, tell, note: panel.note, weight: single.at };
    const { places } = panel;
    if (places?.kind === "grid") {
      for (const head of shown) {
        boxes.push(new Overlay({ ...common, image: this.image, rows: places.rows, columns: places.columns, weight: head.at, label: `the image, bright where ${head.name} looks`, caption: head.name }));
      }
    } else if (places?.kind === "plane") {
      // Where there is a drawing of the same points, it has the circles.
      const drawn = this.context.run.panels.some((each) => each.kind === "drawing" && each.points.length === places.points.length);
      for (const head of drawn ? [] : shown) {
        boxes.push(new PlaneDrawing({
          ...common, points: places.points, weight: head.at, label: `points, with circles for the weights of ${head.name}`,
          caption: `${head.name}: the area of a circle is the weight of its point`,
        }));
      }
    } else if (places?.kind === "images") {
      boxes.push(new Gallery({ ...common, images: this.images, queries: this.queries, names: panel.slots, label: "images, each with its weight" }));
    } else if (long) {
      boxes.push(new Listing(this.tabled(shown)
        ? { ...common, columns: this.words(), weight: (_, step, slot) => shown[0].at(step, slot), pick: (step) => this.pick(step + panel.start) }
        : { ...common, columns: shown.map((head) => head.name), weight: (step, head, slot) => shown[head].at(step, slot) }));
    } else if (panel.slots.length && panel.role !== "other") {
      boxes.push(new Alignment({ ...common, words: this.words(), pick: (step) => this.pick(step + panel.start), tell: (step, slot) => [
        this.stepName(step + panel.start), `${single.name}, ${this.name(slot)}: ${weights.text(single.at(step, slot))}`,
      ] }));
    }
    this.boxes = boxes;
    this.parts.push(...boxes);
    const content = boxes.length ? [make("div", { class: "boxes" }, [
      panel.slots.length && !places && !long && this.count > 1 && shown.length > 1 ? make("p", { class: "which" }, `Shaded by: ${single.name}`) : [],
      boxes.map((box) => box.element),
    ])] : [];
    // A table of sentences and steps says all that is to be drawn over time.
    this.histories = make("div", { class: "histories" }, long && (panel.steps === 1 || this.tabled(shown)) ? [] : shown.map((head, i) => this.history(head, shown, i)));
    content.push(this.histories);
    this.element.replaceChildren(...content);
    if (this.wide) this.resize(this.wide);
    this.step(this.now);
  }

  /** Whether a table has room for all steps of the head that is shown. */
  tabled(shown) {
    return shown.length === 1 && this.panel.steps > 1 && this.panel.steps <= 8;
  }

  /** Words for the steps: those of a strip over the same steps, or the names of the steps. */
  words() {
    const { panel, context } = this;
    const fits = (strip) => strip.kind === "strip" && strip.words && strip.start <= panel.start && strip.start + strip.steps >= panel.start + panel.steps;
    const strips = context.run.panels.filter(fits);
    const strip = strips.find((each) => each.start === panel.start && each.name === "answer") ?? strips.findLast?.((each) => each.start === panel.start) ?? strips.at(-1);
    return strip
      ? strip.words.slice(panel.start - strip.start, panel.start - strip.start + panel.steps)
      : context.example.steps.slice(panel.start, panel.start + panel.steps);
  }

  history(head, shown, i) {
    const { panel, weights } = this;
    const multiple = shown.length > 1;
    const each = multiple ? 8 : 13;
    const most = multiple ? 170 : 280;
    const named_ = panel.slots.length > 0;
    const line = this.timeline({
      label: `${panel.name}, ${head.name}: weights over ${this.slots} slots at each step`,
      rows: this.slots,
      names: named_ ? panel.slots : this.panel.places?.kind === "plane" ? Array.from({ length: this.slots }, (_, slot) => String(slot + 1)) : null,
      height: () => Math.max(36, Math.min(this.slots * (named_ ? Math.max(12, each) : each), named_ && !multiple ? 480 : most)),
      words: named_ && panel.start === 0 && panel.steps === this.steps && !multiple ? this.words() : null,
      marked: this.marked,
      draw: (plain, frame, height) => {
        const scale = new Scale(0, weights.high);
        const box = { x: panel.start * frame.cell, y: 0, width: panel.steps * frame.cell, height };
        heat(plain, box, panel.steps, this.slots, head.at, scale);
      },
      now: (plain, width, height, step) => {
        const local = this.local(step);
        if (local < 0) return;
        bars(plain, width, height, this.slots, (slot) => head.at(local, slot), weights.high, roleColour(panel.role), weights.grain);
      },
      probe: (step, slot) => {
        const local = this.local(step);
        if (local < 0) return [this.stepName(step), `${panel.name}: nothing at this step`];
        return [this.stepName(step), `${head.name}, ${this.name(slot)}: ${weights.text(head.at(local, slot))}`];
      },
    });
    this.lines.push(line);
    this.parts.push(line);
    const title = multiple || this.count > 1 ? [make("figcaption", {}, isolated(head.name))] : [];
    return make("figure", { class: "history" }, [title, line.element]);
  }

  resize(width) {
    this.wide = width;
    const count = this.lines?.length ?? 0;
    const { places } = this.panel;
    // Beside a picture of the slots, and in two columns, where there is room.
    const side = this.boxes?.length && places && places.kind !== "images" && width >= 720 ? (places.kind === "grid" ? (count > 1 ? 460 : 230) : 350) : 0;
    this.element.classList.toggle("beside", side > 0);
    this.element.style.setProperty("--side", `${side}px`);
    const columns = count > 2 && width - side >= 900 ? 2 : 1;
    this.histories?.style.setProperty("--columns", columns);
    for (const line of this.lines ?? []) line.resize(Math.floor((width - side - 16 * columns) / columns));
    for (const box of this.boxes ?? []) box.resize(side || width);
  }

  step(step) {
    super.step(step);
    for (const box of this.boxes ?? []) box.step(this.local(step));
    for (const line of this.lines ?? []) line.step(step);
  }

  controls() {
    if (this.panel.heads.length < 2) return [];
    const { settings } = this.context;
    const choices = [["each", "each head"], ["mean", "mean of the heads"], ...this.panel.heads.map((head, i) => [String(i), head])];
    const select = make("select", {
      "aria-label": `heads of ${this.panel.name}`,
      onchange: () => {
        settings.shown = select.value;
        settings.rebuild();
      },
    }, choices.map(([value, name]) => make("option", { value, selected: value === settings.shown }, name)));
    return [make("label", {}, ["heads ", select])];
  }

  legend() {
    return [new Scale(0, this.weights.high).legend(Math.max(this.weights.grain, 0.005))];
  }

  told(step) {
    const local = this.local(step);
    if (local < 0) return [`${this.panel.name}: nothing at this step`];
    return this.panel.heads.map((head, i) => {
      const row = this.weights.entry(local)[i].map((value, slot) => [value, slot]).filter(([value]) => value > 0);
      row.sort(([a], [b]) => b - a);
      const best = row.slice(0, 5).map(([value, slot]) => `${this.name(slot)} ${this.weights.text(value)}`);
      return `${head}: ${best.join(", ") || "no weight"}${row.length > 5 ? ", …" : ""}`;
    });
  }

  place(step, slot, head = 0) {
    return this.lines[head].place(step, slot);
  }
}

class CellsView extends View {
  async load() {
    const { panel, context } = this;
    const [memory, write, ...vectors] = await Promise.all(
      ["memory", "write", "erase", "add", "remove"].map((name) => this.get(panel[name])),
    );
    this.contents = new Contents(memory, write, ...vectors);
    this.memory = memory;
    const other = context.first && (await this.get(context.first.memory));
    const marked = this.differing(memory, other, 1);
    const reads = [];
    const writes = [];
    for (const each of context.run.panels) {
      const belongs = each.kind === "heads" && (each.memory ? each.memory === panel.name : true);
      if (!belongs || !["read", "write"].includes(each.role)) continue;
      const weights = await this.get(each.weights);
      if (weights.shape[2] !== this.contents.slots) continue;
      each.heads.forEach((name, head) =>
        (each.role === "read" ? reads : writes).push({
          name,
          weight: (step, slot) => {
            const local = step + panel.start - each.start;
            return local >= 0 && local < each.steps ? weights.at(local, head, slot) : NaN;
          },
        }),
      );
    }
    if (!writes.length && write) {
      for (let head = 0; head < write.shape[1]; head++) {
        writes.push({ name: `write head ${head + 1}`, weight: (step, slot) => write.at(step, head, slot) });
      }
    }
    const options = { names: panel.slots, reads, writes, note: panel.note, grain: memory.grain, scale: this.scale() };
    this.options = options;
    if (panel.stack) {
      this.stack = new Stack(this.contents, options);
      this.element.append(this.stack.element);
      this.parts.push(this.stack);
    } else {
      this.maps = new CellMaps(this.contents, options);
      this.element.append(this.maps.element, this.keys(reads, writes));
      this.parts.push(this.maps);
      this.hide();
    }
    const { contents } = this;
    const moves = Array.from({ length: panel.steps }, (_, step) => Array.from({ length: contents.slots }, (__, slot) => contents.moved(step, slot)));
    // One scale for all runs, so that they can be compared.
    context.settings.most = Math.max(context.settings.most ?? 1e-9, ...moves.map((row) => row.reduce((a, b) => (b > a ? b : a), 0)));
    this.history = this.timeline({
      label: `${panel.name}: how much each of ${contents.slots} slots changed at each step`,
      rows: contents.slots,
      names: panel.slots.length ? panel.slots : null,
      height: () => Math.max(36, Math.min(contents.slots * 8, 150)),
      marked,
      draw: (plain, frame, height) => {
        const box = { x: panel.start * frame.cell, y: 0, width: panel.steps * frame.cell, height };
        heat(plain, box, panel.steps, contents.slots, (step, slot) => moves[step][slot], new Scale(0, context.settings.most));
      },
      probe: (step, slot) => {
        const local = this.local(step);
        if (local < 0) return [this.stepName(step), `${panel.name}: nothing at this step`];
        return [this.stepName(step), `${panel.slots[slot] ?? `slot ${slot}`}: largest change of a cell ${memory.text(moves[local][slot])}`];
      },
    });
    this.parts.push(this.history);
    this.element.append(make("figure", { class: "history" }, [
      make("figcaption", {}, "the largest change of a cell in each slot, over the steps"), this.history.element,
    ]));
  }

  scale() {
    return new Scale(this.memory.low, this.memory.high);
  }

  keys(reads, writes) {
    return make("p", { class: "keys" }, [
      writes.length ? [make("span", { class: "write" }, "▶"), ` written: ${writes.map((head) => head.name).join(", ")}  `] : [],
      reads.length ? [make("span", { class: "read" }, "◀"), ` read: ${reads.map((head) => head.name).join(", ")}`] : [],
    ]);
  }

  hide() {
    const { hidden } = this.context.settings;
    for (const map of this.maps?.maps ?? []) map.figure.hidden = Boolean(hidden?.has(map.key));
  }

  controls() {
    if (this.panel.stack) return [];
    const { settings } = this.context;
    settings.hidden ??= new Set();
    return this.maps.maps.map((map) => {
      const box = make("input", {
        type: "checkbox",
        checked: !settings.hidden.has(map.key),
        onchange: () => {
          settings.hidden[box.checked ? "delete" : "add"](map.key);
          settings.redraw();
        },
      });
      return make("label", {}, [box, " ", map.title]);
    });
  }

  legend() {
    return [this.scale().legend(this.memory.grain)];
  }

  resize(width) {
    this.options.scale = this.scale();
    this.hide();
    super.resize(width);
  }

  step(step) {
    super.step(step);
    (this.maps ?? this.stack).step(this.local(step));
    this.history.step(step);
  }

  told(step) {
    const local = this.local(step);
    if (local < 0) return [`${this.panel.name}: nothing at this step`];
    const { contents } = this;
    const moved = Array.from({ length: contents.slots }, (_, slot) => [contents.moved(local, slot), slot]).filter(([value]) => value > this.memory.grain);
    moved.sort(([a], [b]) => b - a);
    const lines = moved.slice(0, 3).map(([, slot]) => {
      const cells = Array.from({ length: Math.min(contents.width, 24) }, (_, column) => written(contents.after(local, slot, column), this.memory.grain));
      return `${this.panel.slots[slot] ?? `slot ${slot}`} is now ${cells.join(" ")}${contents.width > 24 ? " …" : ""}`;
    });
    if (this.stack) lines.unshift(this.stack.said.textContent);
    return lines.length ? lines : ["no slot changed"];
  }

  place(slot, column, map = "after") {
    return this.maps.place(map, slot, column);
  }
}

class LinesView extends View {
  async load() {
    const { panel, context } = this;
    this.values = await this.get(panel.values);
    const other = context.first && (await this.get(context.first.values));
    const count = panel.labels.length;
    this.many = count > 8;
    this.legends = panel.labels.map(() => make("output", {}));
    const low = panel.low;
    const high = panel.high > low ? panel.high : low + 1;
    const digits = Math.max(this.values.grain, (high - low) / 200);
    this.line = this.timeline({
      label: `${panel.name}: ${panel.labels.join(", ")} over the steps`,
      rows: this.many ? count : 1,
      names: this.many ? panel.labels : [""],
      height: () => (this.many ? Math.min(count * 13, 320) : 96),
      marked: this.differing(this.values, other),
      draw: (plain, frame, height) => {
        if (this.many) {
          const box = { x: panel.start * frame.cell, y: 0, width: panel.steps * frame.cell, height };
          heat(plain, box, panel.steps, count, (step, row) => this.values.at(step, row), new Scale(low, high));
          return;
        }
        plain.fillStyle = named("muted");
        plain.textAlign = "right";
        plain.fillText(written(high, digits), -6, 7);
        plain.fillText(written(low, digits), -6, height - 6);
        const y = (value) => 3 + (height - 6) * (1 - (Math.max(low, Math.min(high, value)) - low) / (high - low));
        if (low < 0 && high > 0) {
          plain.strokeStyle = named("line");
          plain.beginPath();
          plain.moveTo(0, y(0));
          plain.lineTo(frame.plot, y(0));
          plain.stroke();
        }
        for (let i = 0; i < count; i++) {
          plain.strokeStyle = plain.fillStyle = lineColour(i);
          plain.setLineDash(DASHES[i]);
          plain.lineWidth = 1.8;
          plain.beginPath();
          let open = false;
          for (let step = 0; step < panel.steps; step++) {
            const value = this.values.at(step, i);
            if (Number.isNaN(value)) {
              open = false;
              continue;
            }
            const x = (panel.start + step + 0.5) * frame.cell;
            if (open) plain.lineTo(x, y(value));
            else plain.moveTo(x, y(value));
            if (panel.steps === 1) plain.fillRect(x - 3, y(value) - 3, 6, 6);
            open = true;
          }
          plain.stroke();
        }
        plain.setLineDash([]);
      },
      now: this.many
        ? (plain, width, height, step) => {
            const local = this.local(step);
            if (local >= 0) bars(plain, width, height, count, (row) => this.values.at(local, row) - Math.max(0, low), high - Math.max(0, low), named("accent"), digits);
          }
        : null,
      probe: (step, row) => {
        const local = this.local(step);
        if (local < 0) return [this.stepName(step), `${panel.name}: nothing at this step`];
        const rows = this.many ? [row] : panel.labels.map((_, i) => i);
        return [this.stepName(step), ...rows.map((i) => `${panel.labels[i]}: ${this.values.text(this.values.at(local, i))}`)];
      },
    });
    this.parts.push(this.line);
    const swatch = (i) => {
      const dash = DASHES[i].length ? DASHES[i].join(",") : null;
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      svg.setAttribute("class", "swatch");
      const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
      line.setAttribute("d", "M0,5H26");
      line.style.stroke = lineColour(i);
      if (dash) line.setAttribute("stroke-dasharray", dash);
      svg.append(line);
      return svg;
    };
    this.swatches = () => this.legends.map((output, i) => make("span", { class: "line" }, [swatch(i), isolated(panel.labels[i]), " ", output]));
    this.key = make("p", { class: "keys" });
    this.element.append(this.line.element, this.many ? [] : this.key);
  }

  resize(width) {
    if (!this.many) this.key.replaceChildren(...this.swatches());
    super.resize(width);
  }

  step(step) {
    super.step(step);
    this.line.step(step);
    const local = this.local(step);
    this.legends.forEach((output, i) => {
      output.textContent = local < 0 ? "–" : written(this.values.at(local, i), Math.max(this.values.grain, Math.abs(this.panel.high - this.panel.low) / 2000));
    });
  }

  legend() {
    return this.many ? [new Scale(this.panel.low, this.panel.high).legend(this.values.grain)] : [];
  }

  told(step) {
    const local = this.local(step);
    if (local < 0) return [`${this.panel.name}: nothing at this step`];
    return this.panel.labels.map((label, i) => `${label}: ${this.values.text(this.values.at(local, i))}`);
  }

  place(step, row) {
    return this.line.place(step, row);
  }
}

class SquareView extends View {
  async load() {
    const { panel } = this;
    this.values = await this.get(panel.values);
    this.map = new SquareMap({
      count: this.values.shape[1],
      at: (step, row, column) => this.values.at(step, row, column),
      scale: new Scale(this.values.low, this.values.high),
      rows: panel.rows,
      columns: panel.columns,
      label: panel.name,
      note: panel.note,
      tell: (step, row, column) => [
        this.stepName(step + panel.start),
        `${panel.rows} ${row}, ${panel.columns} ${column}: ${this.values.text(this.values.at(step, row, column))}`,
      ],
    });
    this.parts.push(this.map);
    this.element.append(this.map.element);
  }

  resize(width) {
    this.map.options.scale = new Scale(this.values.low, this.values.high);
    super.resize(width);
  }

  step(step) {
    super.step(step);
    this.map.step(this.local(step));
  }

  legend() {
    return [new Scale(this.values.low, this.values.high).legend(Math.max(this.values.grain, 0.005))];
  }

  told(step) {
    const local = this.local(step);
    if (local < 0) return [`${this.panel.name}: nothing at this step`];
    const found = [];
    this.values.entry(local).forEach((row, i) => row.forEach((value, j) => value > 0 && found.push([value, i, j])));
    found.sort(([a], [b]) => b - a);
    return found.length ? found.slice(0, 6).map(([value, i, j]) => `row ${i}, column ${j}: ${this.values.text(value)}`) : ["all 0"];
  }

  place(row, column) {
    return this.map.place(row, column);
  }
}

class DrawingView extends View {
  async load() {
    const { panel, context } = this;
    const heads = context.run.panels.find((each) => each.kind === "heads" && each.places?.kind === "plane" && each.places.points.length === panel.points.length);
    const weights = heads && (await this.get(heads.weights));
    const weight = (step, point) => {
      const local = step + panel.start - heads.start;
      if (local < 0 || local >= heads.steps) return NaN;
      let sum = 0;
      for (let head = 0; head < heads.heads.length; head++) sum += weights.at(local, head, point);
      return sum / heads.heads.length;
    };
    const many = heads?.heads.length > 1 ? ", mean of its heads" : "";
    this.drawing = new PlaneDrawing({
      weight: heads ? weight : null,
      points: panel.points,
      right: panel.right,
      answer: panel.answer,
      label: `${panel.name}: points in the plane with the lines of the answer so far`,
      caption: [panel.caption, panel.caption ? make("br") : [], make("span", { class: "keys" }, `solid: the answer so far; ${panel.right.length ? "dashed: the right answer; " : ""}orange: this step${heads ? `; the area of a circle: the weight of ${heads.name} on its point${many}` : ""}`)],
      note: panel.note,
      tell: (step, i) => [
        `point ${i + 1}: (${panel.points[i].map((number) => number.toFixed(3)).join(", ")})`,
        ...(heads && !Number.isNaN(weight(step, i)) ? [`${heads.name}: ${weights.text(weight(step, i))}`] : []),
      ],
    });
    this.parts.push(this.drawing);
    this.element.append(this.drawing.element);
  }

  step(step) {
    super.step(step);
    // After its last step the answer stays.
    this.drawing.step(Math.min(step - this.panel.start, this.panel.steps - 1));
  }

  told(step) {
    const local = Math.min(step - this.panel.start, this.panel.steps - 1);
    const lines = this.panel.answer.slice(0, local + 1).flat().map(([i, j]) => `${i + 1}–${j + 1}`);
    return [`lines so far: ${lines.join(", ") || "none"}`];
  }
}

const VIEWS = { strip: StripView, heads: HeadsView, cells: CellsView, lines: LinesView, square: SquareView, drawing: DrawingView };
