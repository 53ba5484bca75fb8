// Rows of cells over the steps, all on one scale of time, with the step at hand marked.

const FONT = "11px system-ui, sans-serif";

/** Geometry of the time lines within a width: names of the rows, steps, numbers of this step. */
function frameOf(width, steps) {
  const narrow = width < 520;
  const gutter = narrow ? 58 : 104;
  const now = narrow ? 64 : 112;
  const room = Math.max(60, width - gutter - now - 10);
  const plot = Math.min(room, steps * 34);
  return { gutter, now, plot, cell: plot / steps, steps, narrow };
}

/**
 * Numbers over time: a picture of all steps, drawn once, and one of this step beside it.
 *
 * Options: `label` for those who cannot see it; `steps`; `rows`, their number; `names`, of the rows
 * (optional); `height(frame)`; `draw(context, frame, height)`, which draws all steps from (0, 0) on;
 * `now(context, width, height, step)` (optional); `probe(step, row)`, lines for the tip; `note`;
 * `axis`, whether the steps are numbered; `words` for the steps (optional); `marked(step)`, whether
 * the step differs from that of the first run (optional); `pick(step)`, when a step is chosen.
 */
class Timeline {
  constructor(options) {
    this.options = options;
    this.canvas = make("canvas", { role: "img", "aria-label": options.label });
    this.present = make("canvas", { "aria-hidden": "true" });
    this.marker = make("div", { class: "marker" });
    this.past = make("div", { class: "past" }, [this.canvas, this.marker]);
    this.element = make("div", { class: "timeline" }, [this.past, options.now ? this.present : []]);
    this.step_ = 0;
    const place = (x, y) => {
      const step = Math.floor((x - this.frame.gutter) / this.frame.cell);
      const row = Math.floor((y / this.height) * options.rows);
      if (y > this.height + this.below || step < 0 || step >= options.steps) return null;
      return [step, Math.min(row, options.rows - 1)];
    };
    tip.over(this.past, (x, y) => {
      const found = place(x, y);
      return found && options.probe(...found);
    }, options.note);
    tip.over(this.present, (_, y) => {
      const row = Math.floor((y / this.height) * options.rows);
      return row < options.rows ? options.probe(this.step_, row) : null;
    }, options.note);
    const pick = (event) => {
      const box = this.past.getBoundingClientRect();
      const step = Math.floor((event.clientX - box.left - this.frame.gutter) / this.frame.cell);
      if (step >= 0) options.pick(Math.min(step, options.steps - 1));
    };
    this.past.addEventListener("pointerdown", (event) => {
      if (event.button === 0) pick(event);
    });
    this.past.addEventListener("pointermove", (event) => {
      if (event.buttons & 1 && event.pointerType === "mouse") pick(event);
    });
  }

  resize(width) {
    const { options } = this;
    this.frame = frameOf(width, options.steps);
    const { gutter, plot, now, cell } = this.frame;
    this.height = Math.round(options.height(this.frame));
    const slanted = options.words && cell >= 13;
    this.band = options.marked ? 9 : 0;
    this.below = this.band + (slanted ? 52 : options.axis ? 16 : 2);
    const context = size(this.canvas, gutter + plot + 10, this.height + this.below);
    context.font = FONT;
    context.textBaseline = "middle";
    context.fillStyle = named("muted");
    context.textAlign = "right";
    this.nameRows(context, gutter);
    context.save();
    context.translate(gutter, 0);
    context.fillStyle = named("none");
    context.fillRect(0, 0, plot, this.height);
    options.draw(context, this.frame, this.height);
    context.restore();
    if (options.marked) this.drawMarks(context);
    context.fillStyle = named("muted");
    if (slanted) this.drawWords(context);
    else if (options.axis) this.drawAxis(context);
    this.marker.style.height = `${this.height + this.band}px`;
    this.marker.style.width = `${Math.max(3, cell)}px`;
    this.nowWidth = now;
    this.step(this.step_);
  }

  nameRows(context, gutter) {
    const { names, rows } = this.options;
    const high = this.height / rows;
    const shown = names && high >= 11 ? Array.from({ length: rows }, (_, i) => i) : ticks(rows, this.height / 14);
    if (!names && this.options.numbered === false) return;
    for (const row of shown) {
      const y = rows === 1 ? this.height / 2 : Math.max(6, Math.min(this.height - 5, (row + 0.5) * high));
      fitted(context, names ? names[row] : String(row), gutter - 6, y, gutter - 10);
    }
  }

  drawAxis(context) {
    const { gutter, cell, plot } = this.frame;
    context.textAlign = "center";
    for (const step of ticks(this.options.steps, plot / 32)) {
      context.fillText(String(step), gutter + (step + 0.5) * cell, this.height + this.band + 9);
    }
    context.textAlign = "right";
    fitted(context, "step", gutter - 6, this.height + this.band + 9, gutter - 10);
  }

  drawWords(context) {
    const { gutter, cell } = this.frame;
    this.options.words.forEach((word, step) => {
      context.save();
      context.translate(gutter + (step + 0.6) * cell, this.height + this.band + 6);
      context.rotate(-Math.PI / 4);
      fitted(context, word, 0, 0, 60);
      context.restore();
    });
  }

  drawMarks(context) {
    const { gutter, cell } = this.frame;
    context.fillStyle = named("warn");
    context.textAlign = "right";
    fitted(context, "differs", gutter - 6, this.height + 5, gutter - 10);
    for (let step = 0; step < this.options.steps; step++) {
      if (!this.options.marked(step)) continue;
      const x = gutter + (step + 0.5) * cell;
      const r = Math.max(1, Math.min(3.5, cell / 2));
      context.beginPath();
      context.moveTo(x - r, this.height + 5);
      context.lineTo(x, this.height + 1.5);
      context.lineTo(x + r, this.height + 5);
      context.lineTo(x, this.height + 8.5);
      context.fill();
    }
  }

  step(step) {
    this.step_ = step;
    if (!this.frame) return;
    const wide = Math.max(3, this.frame.cell);
    const left = this.frame.gutter + (step + 0.5) * this.frame.cell - wide / 2;
    this.marker.style.transform = `translateX(${left}px)`;
    if (this.options.now) {
      const context = size(this.present, this.nowWidth, this.height + this.below);
      context.font = FONT;
      context.textBaseline = "middle";
      this.options.now(context, this.nowWidth, this.height, step);
    }
  }

  /** The middle of a cell, in the pixels of the window. */
  place(step, row) {
    const box = this.past.getBoundingClientRect();
    return {
      x: box.left + this.frame.gutter + (step + 0.5) * this.frame.cell,
      y: box.top + ((row + 0.5) * this.height) / this.options.rows,
    };
  }
}

/** Draws the weights of this step as bars, one for each row of a picture. */
function bars(context, width, height, count, at, most, colour, grain) {
  const high = height / count;
  context.fillStyle = named("none");
  context.fillRect(0, 0, width, height);
  const numbers = high >= 11 && width > 80;
  const room = numbers ? width - 38 : width - 2;
  for (let row = 0; row < count; row++) {
    const value = at(row);
    if (Number.isNaN(value)) continue;
    context.fillStyle = colour;
    const long = Math.max(0, value / (most || 1)) * room;
    const thick = Math.max(1, high - (high > 4 ? 1 : 0));
    if (long > 0.3) context.fillRect(0, row * high, Math.max(1, long), thick);
    if (numbers && value >= grain) {
      context.fillStyle = named("text");
      context.textAlign = "left";
      context.fillText(value.toFixed(2), long + 4, (row + 0.5) * high);
    }
  }
}
