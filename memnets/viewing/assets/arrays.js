// Arrays of the page: whole numbers from 0 to 254 that stand for a range, 255 for no number.

/** The whole number that stands for no number. */
const NONE = 255;

/** An array of numbers, rounded to 255 levels of its range. The last dimension runs fastest. */
class Numbers {
  /**
   * @param {number[]} shape size of each dimension
   * @param {number} low what level 0 stands for
   * @param {number} high what level 254 stands for
   * @param {Uint8Array} levels
   */
  constructor(shape, low, high, levels) {
    Object.assign(this, { shape, low, high, levels });
    this.grain = (high - low) / 254;
    this.strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((a, b) => a * b, 1));
  }

  /** The number at a place; NaN where there is none. */
  at(...place) {
    let index = 0;
    for (let axis = 0; axis < place.length; axis++) index += place[axis] * this.strides[axis];
    const level = this.levels[index];
    return level === NONE ? NaN : this.low + level * this.grain;
  }

  /** All numbers of an entry of the first dimension, as nested lists. */
  entry(first) {
    const rest = this.shape.slice(1);
    const from = first * this.strides[0];
    const nest = (axis, offset) =>
      axis === rest.length
        ? this.value(offset)
        : Array.from({ length: rest[axis] }, (_, i) => nest(axis + 1, offset + i * this.strides[axis + 1]));
    return nest(0, from);
  }

  /** The number at a place of the flat array. */
  value(index) {
    const level = this.levels[index];
    return level === NONE ? NaN : this.low + level * this.grain;
  }

  /** A number as text, with the digits that its level allows. */
  text(value) {
    return written(value, this.grain);
  }
}

/**
 * A number as text.
 * @param {number} value
 * @param {number} grain distance of two levels
 */
function written(value, grain) {
  if (Number.isNaN(value)) return "none";
  const digits = grain > 0 ? Math.min(5, Math.max(0, Math.ceil(-Math.log10(grain)))) : 3;
  const text = value.toFixed(digits);
  return Number(text) === 0 ? (0).toFixed(digits) : text;
}

/** Unpacks the arrays of the page, each when it is first needed. */
class Store {
  /** @param {{shape: number[], low: number, high: number, data: string}[]} packed */
  constructor(packed) {
    this.packed = packed;
    this.unpacked = new Map();
  }

  /**
   * @param {?number} number of the array
   * @returns {Promise<?Numbers>}
   */
  get(number) {
    if (number === null || number === undefined) return Promise.resolve(null);
    if (!this.unpacked.has(number)) this.unpacked.set(number, unpack(this.packed[number]));
    return this.unpacked.get(number);
  }

  /** Forgets all that is unpacked, to spare the browser's memory. */
  forget() {
    this.unpacked.clear();
  }
}

/** Undoes base64, zlib and the differences between entries of the first dimension. */
async function unpack({ shape, low, high, data }) {
  const text = atob(data);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const levels = new Uint8Array(await new Response(stream).arrayBuffer());
  const entry = levels.length / shape[0];
  for (let i = entry; i < levels.length; i++) levels[i] += levels[i - entry]; // modulo 256
  return new Numbers(shape, low, high, levels);
}
