// Elements, canvases, heat maps, and the tip at the pointer.

/**
 * Makes an element.
 * @param {string} tag
 * @param {Object} attributes with `onclick` and the like as functions
 * @param {string|Node|Array} content texts are texts: no markup of theirs counts
 */
function make(tag, attributes = {}, content = []) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...[content].flat(Infinity));
  return element;
}

/** A text of any script within a line of English. */
function isolated(text, attributes = {}) {
  return make("bdi", { dir: "auto", ...attributes }, text);
}

/**
 * Sizes a canvas in the pixels of the screen.
 * @returns {CanvasRenderingContext2D} that draws in the pixels of the style
 */
function size(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(canvas.width / width, 0, 0, canvas.height / height, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

const stamp = document.createElement("canvas");

/**
 * Draws a heat map. Where there are more cells than pixels, the cell farthest from 0 is seen: a thin
 * line never disappears. Cells without a number stay empty.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {{x: number, y: number, width: number, height: number}} box
 * @param {number} columns
 * @param {number} rows
 * @param {function(number, number): number} at number of a column and a row
 * @param {Scale} scale
 */
function heat(context, box, columns, rows, at, scale) {
  const ratio = window.devicePixelRatio || 1;
  const wide = Math.max(1, Math.min(columns, Math.floor(box.width * ratio)));
  const high = Math.max(1, Math.min(rows, Math.floor(box.height * ratio)));
  const most = new Float32Array(wide * high).fill(NaN);
  for (let column = 0; column < columns; column++) {
    const x = Math.floor((column * wide) / columns);
    for (let row = 0; row < rows; row++) {
      const value = at(column, row);
      if (Number.isNaN(value)) continue;
      const place = Math.floor((row * high) / rows) * wide + x;
      if (!(Math.abs(value) <= Math.abs(most[place]))) most[place] = value;
    }
  }
  const image = new ImageData(wide, high);
  for (let place = 0; place < most.length; place++) {
    if (Number.isNaN(most[place])) continue;
    const colour = scale.index(most[place]) * 3;
    for (let c = 0; c < 3; c++) image.data[place * 4 + c] = scale.table[colour + c];
    image.data[place * 4 + 3] = 255;
  }
  stamp.width = wide;
  stamp.height = high;
  stamp.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(stamp, box.x, box.y, box.width, box.height);
}

/** Draws text that is cut where it would not fit. */
function fitted(context, text, x, y, width) {
  let shown = text;
  if (context.measureText(shown).width > width) {
    const letters = [...text];
    while (letters.length && context.measureText(`${letters.join("")}…`).width > width) letters.pop();
    shown = `${letters.join("")}…`;
  }
  context.fillText(shown, x, y);
}

/** Draws text in lines of its words, around a height; what does not fit is cut. */
function wrapped(context, text, x, y, width, height) {
  const lines = [];
  for (const word of text.split(" ")) {
    const longer = lines.length ? `${lines.at(-1)} ${word}` : word;
    if (lines.length && context.measureText(longer).width <= width) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  const most = Math.max(1, Math.floor(height / 13));
  if (lines.length > most) lines.splice(most - 1, lines.length, lines.slice(most - 1).join(" "));
  lines.forEach((line, i) => fitted(context, line, x, y + (i - (lines.length - 1) / 2) * 13, width));
}

/** Numbers for an axis: about `most` of 0..count-1, at even distances of 1, 2, 5, 10, ... */
function ticks(count, most) {
  let by = 1;
  for (let i = 0; Math.ceil(count / by) > Math.max(1, most); i++) by *= [2, 2.5, 2][i % 3];
  return Array.from({ length: Math.ceil(count / by) }, (_, i) => i * by);
}

/** The tip at the pointer. */
const tip = {
  element: make("div", { id: "tip", role: "status", hidden: true }),

  /** Shows lines near a place of the window. */
  show(lines, note, x, y) {
    this.element.replaceChildren(
      ...lines.map((line) => make("div", { dir: "auto" }, line)),
      // The equation itself; all that belongs to it stands above the panel.
      ...(note ? [make("div", { class: "note" }, note.split("\n").slice(0, 2).join("\n"))] : []),
    );
    this.element.hidden = false;
    const { width, height } = this.element.getBoundingClientRect();
    const left = Math.max(4, Math.min(x + 14, document.documentElement.clientWidth - width - 4));
    const top = y + 18 + height > window.innerHeight ? y - height - 10 : y + 18;
    this.element.style.transform = `translate(${left}px, ${Math.max(4, top)}px)`;
  },

  hide() {
    this.element.hidden = true;
  },

  /**
   * Shows a tip over an element.
   * @param {HTMLElement} element
   * @param {function(number, number): ?string[]} probe lines for a place within it
   * @param {string} note
   */
  over(element, probe, note) {
    const show = (event) => {
      const box = element.getBoundingClientRect();
      const lines = probe(event.clientX - box.left, event.clientY - box.top);
      if (lines) this.show(lines, note, event.clientX, event.clientY);
      else this.hide();
    };
    element.addEventListener("pointermove", show);
    element.addEventListener("pointerdown", show); // a finger does not hover
    element.addEventListener("pointerleave", () => this.hide());
  },
};

/** Draws an arrow from one place to another. */
function arrow(context, [x0, y0], [x1, y1], width, gap = 0) {
  const length = Math.hypot(x1 - x0, y1 - y0) || 1;
  const [ux, uy] = [(x1 - x0) / length, (y1 - y0) / length];
  const end = [x1 - ux * gap, y1 - uy * gap];
  const head = Math.min(length * 0.4, 5 + width * 1.5);
  context.lineWidth = width;
  context.beginPath();
  context.moveTo(x0 + ux * gap, y0 + uy * gap);
  context.lineTo(end[0] - ux * head * 0.8, end[1] - uy * head * 0.8);
  context.stroke();
  context.beginPath();
  context.moveTo(...end);
  context.lineTo(end[0] - ux * head - uy * head * 0.45, end[1] - uy * head + ux * head * 0.45);
  context.lineTo(end[0] - ux * head + uy * head * 0.45, end[1] - uy * head - ux * head * 0.45);
  context.fill();
}
