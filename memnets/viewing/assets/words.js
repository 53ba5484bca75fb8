// Words of a sentence as chips, shaded by weights, and lines between two sentences.

/** Direction in which words are laid out: that of most of their letters. */
function direction(words) {
  const text = words.join("");
  const right = (text.match(/[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]/g) ?? []).length;
  return right * 2 > (text.match(/\p{L}/gu) ?? []).length ? "rtl" : "ltr";
}

/** Words in a row, one of which may be marked. */
class Words {
  /**
   * @param {string[]} words
   * @param {{label: string, pick: ?function(number), tell: function(number): string[], note: string}} options
   */
  constructor(words, options) {
    this.chips = words.map((word, i) =>
      make(options.pick ? "button" : "span", {
        class: "chip",
        type: options.pick ? "button" : null,
        tabindex: options.pick ? "-1" : null, // the arrow keys of the page lead there
        onclick: options.pick ? () => options.pick(i) : () => {},
      }, isolated(word === "" ? "␣" : word)),
    );
    this.element = make("div", { class: "words", role: "group", "aria-label": options.label, dir: direction(words) }, this.chips);
    this.chips.forEach((chip, i) => tip.over(chip, () => options.tell(i), options.note));
    this.marked = null;
  }

  /** Marks a word as the one of this step; -1 for none. */
  mark(i) {
    this.marked?.removeAttribute("aria-current");
    this.marked = this.chips[i] ?? null;
    this.marked?.setAttribute("aria-current", "step");
    if (this.marked && this.element.scrollHeight > this.element.clientHeight + 2) {
      const top = this.marked.offsetTop - this.element.offsetTop - this.element.clientHeight / 2;
      this.element.scrollTop = top;
    }
  }

  /** Shades the words. */
  shade(weights, most) {
    this.chips.forEach((chip, i) => chip.style.setProperty("--weight", Math.max(0, Math.min(1, (weights[i] || 0) / most))));
  }

  /** Adds a sign to a word, such as "wrong". */
  sign(i, name, spoken) {
    this.chips[i].classList.add(name);
    this.chips[i].append(make("span", { class: "hidden" }, ` (${spoken})`));
  }
}

/** A sentence above, the words of the steps below, and lines of their weights between them. */
class Alignment {
  /**
   * @param {Object} options `slots` and `words`; `weight(step, slot)` of the head that is shown;
   *   `most`, the greatest weight; `pick(step)`; `tell(step, slot)`; `note`
   */
  constructor(options) {
    this.options = options;
    this.above = new Words(options.slots, {
      label: "slots, shaded by their weights at this step",
      pick: null,
      tell: (slot) => (this.now >= 0 ? options.tell(this.now, slot) : [options.slots[slot]]),
      note: options.note,
    });
    this.below = options.words.length > 1 ? new Words(options.words, {
      label: "words of the steps",
      pick: options.pick,
      tell: (step) => {
        const best = options.slots.map((_, slot) => slot).sort((a, b) => options.weight(step, b) - options.weight(step, a));
        return [options.words[step], ...best.slice(0, 3).flatMap((slot) => options.tell(step, slot).slice(-1))];
      },
      note: options.note,
    }) : null;
    this.lines = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.lines.setAttribute("aria-hidden", "true");
    this.above.element.classList.add("shaded");
    this.element = make("div", { class: "alignment" }, [this.lines, this.above.element, this.below ? this.below.element : []]);
    this.now = -1;
  }

  /** Shows a step; one outside of the panel shows no weights. */
  step(step) {
    const { slots, words, weight, most } = this.options;
    this.now = step >= 0 && step < words.length ? step : -1;
    this.above.shade(this.now < 0 ? [] : slots.map((_, slot) => weight(this.now, slot)), Math.max(most, 0.3));
    if (!this.below) return;
    this.below.mark(this.now);
    if (!this.ends) return;
    const paths = [];
    const line = (from, to, share, faint) => {
      const [x0, y0] = this.ends.above[to];
      const [x1, y1] = this.ends.below[from];
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      const bend = (y1 - y0) * 0.45;
      path.setAttribute("d", `M${x0},${y0} C${x0},${y0 + bend} ${x1},${y1 - bend} ${x1},${y1}`);
      path.setAttribute("class", faint ? "faint" : "line");
      path.style.strokeWidth = faint ? 1 : 0.8 + 6 * share;
      path.style.strokeOpacity = faint ? 0.35 : 0.35 + 0.6 * share;
      paths.push(path);
    };
    // Faint lines: the slot of the largest weight of each other step.
    if (this.plain) {
      words.forEach((_, from) => {
        if (from !== this.now && this.best[from] >= 0) line(from, this.best[from], 0, true);
      });
    }
    slots.forEach((_, slot) => {
      const share = this.now < 0 ? 0 : weight(this.now, slot);
      if (share > 0.02) line(this.now, slot, Math.min(1, share), false);
    });
    this.lines.replaceChildren(...paths);
  }

  /** Measures where the words are: only then, since to measure between drawing is slow. */
  resize() {
    const { slots, words, weight } = this.options;
    const box = this.element.getBoundingClientRect();
    const middles = (chips, side) => chips.map((chip) => {
      const inner = chip.getBoundingClientRect();
      return [inner.left + inner.width / 2 - box.left, inner[side] - box.top];
    });
    if (this.below && box.width) {
      this.ends = { above: middles(this.above.chips, "bottom"), below: middles(this.below.chips, "top") };
      // Among words in many rows they would only cross each other.
      this.plain = new Set(this.ends.below.map(([, y]) => y)).size <= 3 && words.length * slots.length <= 2500;
      this.best ??= words.map((_, step) => {
        const row = slots.map((__, slot) => weight(step, slot) || 0);
        const most = Math.max(...row);
        return most > 0 ? row.indexOf(most) : -1;
      });
    }
    this.step(this.now);
  }
}

/** Sentences or other long names one below the other, with columns of weights. */
class Listing {
  /**
   * @param {Object} options `slots`; `columns`, the names of heads, or of steps where `pick` is given;
   *   `weight(step, column, slot)`; `most`, `grain`; `pick(step)` (optional)
   */
  constructor(options) {
    this.options = options;
    this.cells = options.slots.map(() => options.columns.map((_, i) => make("td", {
      class: "weight",
      onclick: options.pick ? () => options.pick(i) : () => {},
    })));
    this.heads = options.columns.map((column) => make("th", { scope: "col" }, isolated(column)));
    this.element = make("table", { class: options.pick ? "listing steps" : "listing" }, [
      make("thead", {}, make("tr", {}, [make("th", { scope: "col" }, "slot"), ...this.heads])),
      make("tbody", {}, options.slots.map((slot, i) =>
        make("tr", {}, [make("th", { scope: "row" }, isolated(slot)), ...this.cells[i]]))),
    ]);
  }

  step(step) {
    const { pick, weight, most, grain } = this.options;
    if (pick) [this.heads, ...this.cells].forEach((row) => row.forEach((cell, i) => cell.classList.toggle("now", i === step)));
    this.cells.forEach((row, slot) => row.forEach((cell, column) => {
      const value = step < 0 && !pick ? NaN : weight(step, column, slot);
      cell.textContent = Number.isNaN(value) ? "" : written(value, Math.max(grain, 0.001));
      cell.style.setProperty("--weight", Math.max(0, Math.min(1, (value || 0) / most)));
    }));
  }

  resize() {}
}
