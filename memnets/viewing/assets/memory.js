// The cells of a memory before and after a step, stacks, and links between slots.

/** What a memory holds around each step, and what the step erased and added. */
class Contents {
  /** @param {Numbers} memory `[T + 1, N, W]`, the memory before the first step first */
  constructor(memory, write, erase, add, remove) {
    Object.assign(this, { memory, write, erase, add, remove });
    [, this.slots, this.width] = memory.shape;
    this.steps = memory.shape[0] - 1;
  }

  before(step, slot, column) {
    return this.memory.at(step, slot, column);
  }

  after(step, slot, column) {
    return this.memory.at(step + 1, slot, column);
  }

  /** before * (1 - prod_h (1 - write[h] * erase[h])) + sum_h write[h] * remove[h]: what the cell loses. */
  erased(step, slot, column) {
    const removed = this.sum(this.remove, step, slot, column);
    if (!this.erase) return removed;
    let kept = 1;
    for (let head = 0; head < this.write.shape[1]; head++) {
      kept *= 1 - this.write.at(step, head, slot) * this.erase.at(step, head, column);
    }
    return this.before(step, slot, column) * (1 - kept) + removed;
  }

  /** sum_h write[h] * add[h]: what the cell gains. */
  added(step, slot, column) {
    return this.sum(this.add, step, slot, column);
  }

  /** sum_h write[h] * vectors[h] */
  sum(vectors, step, slot, column) {
    if (!vectors) return 0;
    let sum = 0;
    for (let head = 0; head < this.write.shape[1]; head++) {
      sum += this.write.at(step, head, slot) * vectors.at(step, head, column);
    }
    return sum;
  }

  change(step, slot, column) {
    return this.after(step, slot, column) - this.before(step, slot, column);
  }

  /** How much a slot changed at a step: its largest change; NaN for a slot that is not there. */
  moved(step, slot) {
    if (Number.isNaN(this.after(step, slot, 0))) return NaN;
    let most = 0;
    for (let column = 0; column < this.width; column++) {
      const before = this.before(step, slot, column);
      const value = this.after(step, slot, column) - (Number.isNaN(before) ? 0 : before);
      if (Math.abs(value) > Math.abs(most)) most = value;
    }
    return Math.abs(most);
  }
}

/** Heat maps of the cells at one step, side by side, with the rows that heads read and write. */
class CellMaps {
  /**
   * @param {Contents} contents
   * @param {Object} options `names` of the slots, `reads` and `writes`: lists of
   *   `{name, weight(step, slot)}`, `grain`, `note`, `scale`
   */
  constructor(contents, options) {
    this.contents = contents;
    this.options = options;
    const known = contents.write && (contents.erase || contents.add || contents.remove);
    this.maps = [
      { key: "before", title: "before", at: (...place) => contents.before(...place) },
      ...(known
        ? [
            { key: "erased", title: "− erased", at: (...place) => contents.erased(...place) },
            { key: "added", title: "+ added", at: (...place) => contents.added(...place) },
          ]
        : [{ key: "change", title: "change", at: (...place) => contents.change(...place) }]),
      { key: "after", title: "after", at: (...place) => contents.after(...place) },
    ];
    this.heads = make("canvas", { "aria-hidden": "true" });
    this.figure = make("figure", { class: "map axis" }, [make("figcaption", {}, "heads"), this.heads]);
    for (const map of this.maps) {
      map.canvas = make("canvas", { role: "img", "aria-label": `cells ${map.title}, slots as rows`, "data-map": map.key });
      map.figure = make("figure", { class: "map" }, [make("figcaption", {}, map.title), map.canvas]);
      tip.over(map.canvas, (x, y) => {
        const slot = Math.floor((y / this.height) * contents.slots);
        const column = Math.floor((x / this.width) * contents.width);
        if (this.now < 0 || slot >= contents.slots || column >= contents.width) return null;
        return [
          `${this.slot(slot)}, column ${column}`,
          ...this.maps.map((each) => `${each.title}: ${written(each.at(this.now, slot, column), options.grain)}`),
          ...[...options.reads, ...options.writes].map((head) => `${head.name}: ${written(head.weight(this.now, slot), 0.004)}`),
        ];
      }, options.note);
    }
    this.element = make("div", { class: "maps" }, [this.figure, this.maps.map((map) => map.figure)]);
    this.now = -1;
  }

  slot(i) {
    return this.options.names[i] ?? `slot ${i}`;
  }

  resize(width) {
    const { slots, width: columns } = this.contents;
    const shown = this.maps.filter((map) => !map.figure.hidden).length || 1;
    const heads = this.options.reads.length + this.options.writes.length;
    this.markers = 44 + heads * 12;
    // Side by side where there is room, else two in a row.
    const room = (count) => (width - this.markers - 12 * (count + 1)) / count;
    const each = room(shown) >= 48 ? room(shown) : room(Math.min(2, shown));
    this.height = Math.round(Math.min(384, Math.max(64, slots * 16)));
    this.width = Math.round(Math.min(each, columns * 16, 320));
    this.step(this.now);
  }

  step(step) {
    this.now = step;
    if (!this.height) return;
    const { slots, width: columns } = this.contents;
    for (const map of this.maps) {
      if (map.figure.hidden) continue;
      const context = size(map.canvas, this.width, this.height);
      if (step >= 0) {
        const box = { x: 0, y: 0, width: this.width, height: this.height };
        heat(context, box, columns, slots, (column, slot) => map.at(step, slot, column), this.options.scale);
      }
    }
    this.drawHeads(step);
  }

  drawHeads(step) {
    const { slots } = this.contents;
    const context = size(this.heads, this.markers, this.height);
    const high = this.height / slots;
    context.font = FONT;
    context.textBaseline = "middle";
    context.textAlign = "right";
    context.fillStyle = named("muted");
    for (const slot of ticks(slots, this.height / 14)) {
      fitted(context, this.options.names[slot] ?? String(slot), 38, Math.max(6, Math.min(this.height - 5, (slot + 0.5) * high)), 36);
    }
    let x = 43;
    for (const [role, heads] of [["write", this.options.writes], ["read", this.options.reads]]) {
      for (const head of heads) {
        context.fillStyle = named("none");
        context.fillRect(x, 0, 10, this.height);
        for (let slot = 0; slot < slots && step >= 0; slot++) {
          const value = head.weight(step, slot);
          if (!(value > 0.02)) continue;
          // Shapes tell them apart: writing points at the memory, reading away from it.
          context.globalAlpha = Math.min(1, 0.15 + 0.85 * value);
          context.fillStyle = roleColour(role);
          const [y, half] = [(slot + 0.5) * high, Math.max(2, Math.min(6, high / 2))];
          const [from, to] = role === "write" ? [x + 1, x + 9] : [x + 9, x + 1];
          context.beginPath();
          context.moveTo(from, y - half);
          context.lineTo(to, y);
          context.lineTo(from, y + half);
          context.fill();
        }
        context.globalAlpha = 1;
        x += 12;
      }
    }
  }

  /** The middle of a cell of a map, in the pixels of the window. */
  place(key, slot, column) {
    const box = this.maps.find((map) => map.key === key).canvas.getBoundingClientRect();
    return {
      x: box.left + ((column + 0.5) * this.width) / this.contents.width,
      y: box.top + ((slot + 0.5) * this.height) / this.contents.slots,
    };
  }
}

/** A stack at one step: its top above, as boxes, and what moved. */
class Stack {
  constructor(contents, options) {
    this.contents = contents;
    this.options = options;
    this.canvas = make("canvas", { role: "img", "aria-label": "the stack before and after this step, its top above" });
    this.said = make("p", { class: "moved" });
    this.element = make("figure", { class: "stack" }, [this.said, this.canvas]);
    this.now = -1;
    tip.over(this.canvas, (x, y) => {
      const slot = Math.floor((y - this.top) / this.box);
      if (this.now < 0 || slot < 0 || slot >= this.shown) return null;
      const after = x > this.width / 2;
      const at = (column) => contents[after ? "after" : "before"](this.now, slot, column);
      return [
        `${after ? "after" : "before"}: ${options.names[slot] ?? (slot === 0 ? "top" : `${slot} below the top`)}`,
        Array.from({ length: contents.width }, (_, column) => written(at(column), options.grain)).join("  "),
      ];
    }, options.note);
  }

  /**
   * The move that explains a step best: all slots one down is a push, one up a pop.
   * @param {number} step
   * @param {number[]} columns the columns that move together
   * @returns {{name: string, share: number}} share of the change that it explains
   */
  move(step, columns) {
    const { contents } = this;
    const number = (value) => (Number.isNaN(value) ? 0 : value);
    const far = (shift) => {
      let sum = 0;
      for (let slot = Math.max(0, shift); slot < contents.slots + Math.min(0, shift); slot++) {
        for (const column of columns) {
          const from = number(contents.before(step, slot - shift, column));
          sum += (number(contents.after(step, slot, column)) - from) ** 2;
        }
      }
      return sum;
    };
    // Slots there and not there count as well: they tell a push of zeros from no change.
    const depth = (time) => {
      let count = 0;
      for (let slot = 0; slot < contents.slots; slot++) count += !Number.isNaN(contents.memory.at(time, slot, 0));
      return count;
    };
    const grown = depth(step + 1) - depth(step);
    const stay = far(0);
    if (grown > 0) return { name: "push", share: 1 };
    if (grown < 0) return { name: "pop", share: 1 };
    const [push, pop] = [far(1), far(-1)];
    const slack = contents.slots * columns.length * contents.memory.grain ** 2;
    if (stay <= slack || (stay <= push && stay <= pop)) return { name: "no move", share: 1 };
    const best = Math.min(push, pop);
    return { name: push <= pop ? "push" : "pop", share: Math.max(0, 1 - best / stay) };
  }

  /** The move in words: of the whole stack, or of each column if the columns go their own ways. */
  told(step) {
    const signs = { push: "↓ push", pop: "↑ pop", "no move": "= no move" };
    const columns = Array.from({ length: this.contents.width }, (_, column) => column);
    const whole = this.move(step, columns);
    const each = columns.length > 1 && columns.length <= 8 ? columns.map((column) => this.move(step, [column])) : [];
    if (whole.share < 0.8 && each.length && each.every(({ share }) => share >= 0.8)) {
      return each.map(({ name }, column) => `column ${column}: ${signs[name]}`).join(", ");
    }
    return whole.share < 0.8 ? `a mix, most like ${signs[whole.name]}` : signs[whole.name];
  }

  resize(width) {
    this.width = Math.min(width, 460);
    this.step(this.now);
  }

  step(step) {
    this.now = step;
    if (!this.width) return;
    const { contents, options } = this;
    this.shown = Math.min(contents.slots, 24);
    this.box = 20;
    this.top = 18;
    const context = size(this.canvas, this.width, this.top + this.shown * this.box + 4);
    if (step < 0) {
      this.said.textContent = "The stack has no content at this step.";
      return;
    }
    this.said.textContent = this.told(step);
    const { name } = this.move(step, Array.from({ length: contents.width }, (_, column) => column));
    context.font = FONT;
    context.textBaseline = "middle";
    const middle = 40;
    const wide = (this.width - middle) / 2 - 1;
    const draw = (left, at, title) => {
      context.fillStyle = named("muted");
      context.textAlign = "left";
      context.fillText(`${title} (top above)`, left, 7);
      for (let slot = 0; slot < this.shown; slot++) {
        const y = this.top + slot * this.box;
        const there = !Number.isNaN(at(step, slot, 0));
        context.strokeStyle = named(there ? "text" : "line");
        context.setLineDash(there ? [] : [2, 3]);
        context.lineWidth = 1;
        if (there) {
          const box = { x: left, y, width: wide, height: this.box - 3 };
          heat(context, box, contents.width, 1, (column) => at(step, slot, column), options.scale);
        }
        context.strokeRect(left + 0.5, y + 0.5, wide - 1, this.box - 4);
      }
      context.setLineDash([]);
    };
    draw(0, (...place) => contents.before(...place), "before");
    draw(wide + middle, (...place) => contents.after(...place), "after");
    // One arrow for each slot that goes somewhere.
    const shift = { push: 1, pop: -1, "no move": 0 }[name];
    context.strokeStyle = context.fillStyle = named(name === "push" ? "write" : name === "pop" ? "read" : "muted");
    for (let slot = 0; slot < this.shown; slot++) {
      const to = slot + shift;
      if (Number.isNaN(contents.before(step, slot, 0)) || to < 0 || to >= this.shown) continue;
      const y = (row) => this.top + (row + 0.5) * this.box - 2;
      arrow(context, [wide + 3, y(slot)], [wide + middle - 3, y(to)], 1.2);
    }
  }
}

/** Most slots that stand on the circle of arrows. */
const MOST_SPOTS = 24;

/** A matrix over pairs of slots at one step, and the same as arrows where these can be read. */
class SquareMap {
  /** @param {Object} options `count`, `at(step, row, column)`, `scale`, `rows`, `columns`, `tell`, `note` */
  constructor(options) {
    this.options = options;
    this.canvas = make("canvas", { role: "img", "aria-label": options.label });
    this.arrows = make("canvas", { role: "img", "aria-label": `${options.label}, as arrows` });
    this.element = make("div", { class: "maps" }, [
      make("figure", { class: "map" }, [this.canvas]),
      make("figure", { class: "map" }, [this.arrows, make("figcaption", {}, "An arrow leads from the slot of the column to that of the row; the thicker, the larger." + (options.count > MOST_SPOTS ? " Only the slots of the largest numbers." : ""))]),
    ]);
    this.now = -1;
    tip.over(this.canvas, (x, y) => {
      const row = Math.floor(((y - 4) / this.side) * options.count);
      const column = Math.floor(((x - this.left) / this.side) * options.count);
      const inside = row >= 0 && row < options.count && column >= 0 && column < options.count;
      return this.now < 0 || !inside ? null : options.tell(this.now, row, column);
    }, options.note);
  }

  resize(width) {
    this.left = 46;
    this.side = Math.round(Math.min(300, width - this.left - 4));
    this.step(this.now);
  }

  step(step) {
    this.now = step;
    if (!this.side) return;
    const { count, at, scale, rows, columns } = this.options;
    const context = size(this.canvas, this.left + this.side + 4, this.side + 40);
    context.fillStyle = named("none");
    context.fillRect(this.left, 4, this.side, this.side);
    if (step >= 0) {
      const box = { x: this.left, y: 4, width: this.side, height: this.side };
      heat(context, box, count, count, (column, row) => at(step, row, column), scale);
    }
    context.font = FONT;
    context.fillStyle = named("muted");
    context.textBaseline = "middle";
    const each = this.side / count;
    for (const i of ticks(count, this.side / 26)) {
      context.textAlign = "right";
      context.fillText(String(i), this.left - 4, 4 + (i + 0.5) * each);
      context.textAlign = "center";
      context.fillText(String(i), this.left + (i + 0.5) * each, this.side + 14);
    }
    context.fillText(columns, this.left + this.side / 2, this.side + 30);
    context.save();
    context.translate(9, 4 + this.side / 2);
    context.rotate(-Math.PI / 2);
    context.fillText(rows, 0, 0);
    context.restore();
    this.drawArrows(step);
  }

  /** The slots on a circle, with an arrow from j to i for each large number of row i, column j. */
  drawArrows(step) {
    const { count, at, scale } = this.options;
    const links = [];
    for (let row = 0; row < count && step >= 0; row++) {
      for (let column = 0; column < count; column++) {
        const value = at(step, row, column);
        if (row !== column && value > 0.05 * scale.high) links.push([value, row, column]);
      }
    }
    links.sort(([a], [b]) => b - a);
    const all = count <= MOST_SPOTS;
    const chosen = new Set(all ? Array(count).keys() : []);
    for (const [, row, column] of links) {
      if (new Set([...chosen, row, column]).size <= MOST_SPOTS) chosen.add(row).add(column);
    }
    const slots = [...chosen].sort((a, b) => a - b);
    const place = new Map(slots.map((slot, i) => [slot, i]));
    const side = this.side + 8;
    const context = size(this.arrows, side, side);
    const radius = side / 2 - 16;
    const spot = (slot, r = radius) => {
      const angle = (2 * Math.PI * place.get(slot)) / slots.length - Math.PI / 2;
      return [side / 2 + r * Math.cos(angle), side / 2 + r * Math.sin(angle)];
    };
    context.strokeStyle = context.fillStyle = named("accent");
    for (const [value, row, column] of links) {
      if (!chosen.has(row) || !chosen.has(column)) continue;
      context.globalAlpha = Math.min(1, 0.15 + (0.85 * value) / scale.high);
      arrow(context, spot(column, radius - 9), spot(row, radius - 9), 0.6 + (2.4 * value) / scale.high);
    }
    context.globalAlpha = 1;
    context.font = FONT;
    context.fillStyle = named("text");
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (const slot of slots) context.fillText(String(slot), ...spot(slot, radius + 4));
  }

  place(row, column) {
    const box = this.canvas.getBoundingClientRect();
    const each = this.side / this.options.count;
    return { x: box.left + this.left + (column + 0.5) * each, y: box.top + 4 + (row + 0.5) * each };
  }
}
