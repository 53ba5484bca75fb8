// Colours that people with any kind of colour vision can tell apart.

/** Viridis, by nine of its colours. */
const SEQUENTIAL = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];
/** Blue for numbers below 0, orange for those above; 0 is the colour of the page. */
const SIGNED = {
  light: ["#08306b", "#2171b5", "#9ecae1", "#fbfaf8", "#fdae6b", "#d9690b", "#7f2704"],
  dark: ["#b5dcff", "#4a9be0", "#1d4f80", "#17191c", "#7a4310", "#e08427", "#ffd9a8"],
};
/** From the colour of the page to that of ink: inputs and answers, as on paper. */
const INK = { light: ["#f6f4f0", "#1d2127"], dark: ["#1d2024", "#f0f1f3"] };
/** Colours of lines (Okabe and Ito), with dashes as a second sign. */
const LINES = {
  light: ["#0072b2", "#d55e00", "#007f5f", "#a8467f", "#8a6d00", "#2f8fc4", "#555555", "#000000"],
  dark: ["#56b4e9", "#ff8c42", "#2fd0a5", "#e59ac8", "#f0e442", "#8ecbff", "#bbbbbb", "#ffffff"],
};
const DASHES = [[], [6, 3], [2, 2], [8, 3, 2, 3], [], [6, 3], [2, 2], [8, 3, 2, 3]];

/** Whether the page is dark at the moment. */
function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

/** A colour that the style gives a name, such as "text". */
function named(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function channels(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

/** A scale from numbers to colours. */
class Scale {
  /**
   * @param {number} low the least number
   * @param {number} high the greatest; with a low below 0 the scale is symmetric around 0
   * @param {boolean} ink whether the numbers are an input or an answer
   */
  constructor(low, high, ink = false) {
    this.signed = low < 0;
    const most = Math.max(-low, high) || 1;
    this.low = this.signed ? -most : low;
    this.high = this.signed ? most : high > low ? high : low + 1;
    const theme = isDark() ? "dark" : "light";
    this.stops = this.signed ? SIGNED[theme] : ink ? INK[theme] : SEQUENTIAL;
    const colours = this.stops.map(channels);
    this.table = new Uint8ClampedArray(256 * 3);
    for (let i = 0; i < 256; i++) {
      const place = (i / 255) * (colours.length - 1);
      const left = Math.min(Math.floor(place), colours.length - 2);
      for (let c = 0; c < 3; c++) {
        this.table[i * 3 + c] = colours[left][c] + (place - left) * (colours[left + 1][c] - colours[left][c]);
      }
    }
  }

  /** Place of a number in the table, from 0 to 255. */
  index(value) {
    return Math.max(0, Math.min(255, Math.round(((value - this.low) / (this.high - this.low)) * 255)));
  }

  /** The colour of a number, as three numbers from 0 to 255. */
  rgb(value) {
    const i = this.index(value) * 3;
    return [this.table[i], this.table[i + 1], this.table[i + 2]];
  }

  css(value) {
    return Number.isNaN(value) ? "transparent" : `rgb(${this.rgb(value).join(" ")})`;
  }

  /** The scale drawn as a bar, with the numbers at its ends. */
  legend(grain) {
    return make("span", { class: "legend", title: "what the colours stand for" }, [
      make("span", {}, written(this.low, grain)),
      make("span", { class: "gradient", style: `background: linear-gradient(to right, ${this.stops.join(", ")})` }, this.signed ? make("span", { class: "zero" }, "0") : []),
      make("span", {}, written(this.high, grain)),
    ]);
  }
}

/** Colour number i of the lines. */
function lineColour(i) {
  return LINES[isDark() ? "dark" : "light"][i % 8];
}

/** The colour of a role of heads. */
function roleColour(role) {
  return named(role === "write" ? "write" : role === "read" ? "read" : "accent");
}
