// Slots that lie somewhere: patches of an image, points in the plane, images.

/** Paints an image `[height, width, channels]` of an array into a canvas of its own size. */
function painted(numbers, from, height, width, channels) {
  const image = new ImageData(width, height);
  for (let pixel = 0; pixel < height * width; pixel++) {
    for (let c = 0; c < 3; c++) {
      image.data[pixel * 4 + c] = 255 * numbers.value(from + pixel * channels + (channels === 3 ? c : 0));
    }
    image.data[pixel * 4 + 3] = 255;
  }
  const canvas = make("canvas", { width, height });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** An image that is bright where the weights are, patch by patch. */
class Overlay {
  /** @param {Object} options `image` (numbers), `rows`, `columns`, `label`, `weight(step, slot)`, `tell`, `note` */
  constructor(options) {
    this.options = options;
    const [height, width, channels_] = options.image.shape;
    this.ratio = height / width;
    this.source = painted(options.image, 0, height, width, channels_);
    this.canvas = make("canvas", { role: "img", "aria-label": options.label });
    this.element = make("figure", { class: "place" }, [this.canvas, make("figcaption", {}, options.caption)]);
    this.now = -1;
    tip.over(this.canvas, (x, y) => {
      const row = Math.floor((y / this.height) * options.rows);
      const column = Math.floor((x / this.width) * options.columns);
      const slot = row * options.columns + column;
      return this.now < 0 || row >= options.rows || column >= options.columns ? null : options.tell(this.now, slot);
    }, options.note);
  }

  resize(width) {
    this.width = Math.min(220, width);
    this.height = this.width * this.ratio;
    this.step(this.now);
  }

  step(step) {
    this.now = step;
    if (!this.width) return;
    const { rows, columns, weight } = this.options;
    const context = size(this.canvas, this.width, this.height);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.source, 0, 0, this.width, this.height);
    const [wide, high] = [this.width / columns, this.height / rows];
    let most = 0;
    let best = -1;
    for (let slot = 0; slot < rows * columns && step >= 0; slot++) {
      if (weight(step, slot) > most) [most, best] = [weight(step, slot), slot];
    }
    for (let slot = 0; slot < rows * columns; slot++) {
      const share = most > 0 ? weight(step, slot) / most : 0;
      const [x, y] = [(slot % columns) * wide, Math.floor(slot / columns) * high];
      context.fillStyle = `rgb(8 12 40 / ${step < 0 ? 0 : 0.7 * (1 - share)})`;
      context.fillRect(x, y, wide, high);
      if (slot === best) {
        context.strokeStyle = "#ff9f1c";
        context.lineWidth = 2;
        context.strokeRect(x + 1, y + 1, wide - 2, high - 2);
      }
    }
  }
}

/** Points in the plane with lines between them, and a circle of the size of each weight. */
class PlaneDrawing {
  /**
   * @param {Object} options `points`, `label`, `caption`; `right`, lines of the right answer, and
   *   `answer`, lines that each step adds (both optional); `weight(step, slot)` (optional); `tell`
   */
  constructor(options) {
    this.options = options;
    this.canvas = make("canvas", { role: "img", "aria-label": options.label });
    this.element = make("figure", { class: "place" }, [this.canvas, make("figcaption", {}, options.caption)]);
    this.now = -1;
    tip.over(this.canvas, (x, y) => {
      const nearest = this.places
        ?.map(([px, py], i) => [Math.hypot(px - x, py - y), i])
        .sort((a, b) => a[0] - b[0])[0];
      return nearest && nearest[0] < 16 ? options.tell(this.now, nearest[1]) : null;
    }, options.note);
  }

  resize(width) {
    const { points } = this.options;
    this.side = Math.min(340, width);
    const xs = points.map(([x]) => x);
    const ys = points.map(([, y]) => y);
    const [left, bottom] = [Math.min(...xs), Math.min(...ys)];
    const [wide, tall] = [Math.max(...xs) - left, Math.max(...ys) - bottom];
    const scale = (this.side - 52) / (Math.max(wide, tall) || 1);
    const right = (this.side - wide * scale) / 2;
    this.tall = Math.max(80, tall * scale + 52);
    this.places = points.map(([x, y]) => [right + (x - left) * scale, this.tall - 26 - (y - bottom) * scale]);
    this.step(this.now);
  }

  step(step) {
    this.now = step;
    if (!this.side) return;
    const circle = Math.min(17, this.side / 14);
    const { points, right = [], answer = [], weight } = this.options;
    const context = size(this.canvas, this.side, this.tall);
    const [text, muted, accent, warn] = ["text", "muted", "accent", "warn"].map(named);
    context.strokeStyle = muted;
    context.lineWidth = 1.2;
    context.setLineDash([3, 4]);
    for (const [i, j] of right) {
      context.beginPath();
      context.moveTo(...this.places[i]);
      context.lineTo(...this.places[j]);
      context.stroke();
    }
    context.setLineDash([]);
    const there = Math.min(step, answer.length - 1);
    for (let at = 0; at <= there; at++) {
      const fresh = at === step;
      context.strokeStyle = context.fillStyle = fresh ? warn : accent;
      for (const [i, j] of answer[at]) arrow(context, this.places[i], this.places[j], fresh ? 3.2 : 2, 4);
    }
    if (weight && step >= 0) {
      let most = 0;
      for (let i = 0; i < points.length; i++) most = Math.max(most, weight(step, i) || 0);
      for (let i = 0; i < points.length; i++) {
        const value = weight(step, i) || 0;
        if (!(value > 0)) continue;
        // The area, not the radius, stands for the weight.
        context.beginPath();
        context.arc(...this.places[i], Math.max(1, circle * Math.sqrt(value)), 0, 2 * Math.PI);
        context.globalAlpha = 0.3;
        context.fillStyle = warn;
        context.fill();
        context.globalAlpha = 1;
        context.strokeStyle = warn;
        context.lineWidth = value === most ? 2 : 1;
        context.stroke();
      }
    }
    context.font = FONT;
    context.textBaseline = "middle";
    context.textAlign = "left";
    this.places.forEach(([x, y], i) => {
      context.fillStyle = text;
      context.beginPath();
      context.arc(x, y, 3, 0, 2 * Math.PI);
      context.fill();
      if (points.length <= 60) context.fillText(String(i + 1), x + 6, y - 8);
    });
  }
}

/** Images in a row, each with its weight; before them the one that is asked about. */
class Gallery {
  /** @param {Object} options `images`, `queries` (numbers), `names`, `weight(step, slot)`, `most`, `tell` */
  constructor(options) {
    this.options = options;
    const small = (numbers, i) => {
      const [, height, width, channels_] = numbers.shape;
      const canvas = painted(numbers, i * numbers.strides[0], height, width, channels_);
      canvas.className = "thumbnail";
      return canvas;
    };
    this.small = small;
    this.weights = [];
    const images = options.images.shape[0];
    this.figures = Array.from({ length: Math.max(images, options.names.length) }, (_, i) => {
      this.weights[i] = make("span", { class: "share" });
      const figure = make("figure", { class: "example" }, [
        i < images ? small(options.images, i) : make("canvas", { class: "thumbnail", width: 4, height: 4 }),
        make("div", { class: "bar" }, make("div")),
        make("figcaption", {}, [isolated(options.names[i] ?? String(i)), " ", this.weights[i]]),
      ]);
      tip.over(figure, () => (this.now < 0 ? null : options.tell(this.now, i)), options.note);
      return figure;
    });
    this.query = make("figure", { class: "example query" });
    this.element = make("div", { class: "gallery", role: "group", "aria-label": options.label }, [options.queries ? this.query : [], this.figures]);
    this.now = -1;
  }

  resize() {}

  step(step) {
    this.now = step;
    const { queries, weight, most, grain } = this.options;
    if (queries && step >= 0 && step < queries.shape[0]) {
      this.query.replaceChildren(this.small(queries, step), make("figcaption", {}, "asked about"));
    }
    this.figures.forEach((figure, slot) => {
      const value = step < 0 ? 0 : weight(step, slot) || 0;
      figure.style.setProperty("--weight", Math.max(0, Math.min(1, value / most)));
      this.weights[slot].textContent = step < 0 ? "" : written(value, Math.max(grain, 0.001));
    });
  }
}
