// The page: examples, the step at hand, playing, keys, and sections of panels.

const SPEEDS = [0.5, 1, 2, 4, 8, 16, 32, 60];
const KEYS = [
  ["Space", "play, pause"],
  ["← →", "one step back, forward"],
  ["Shift ← →", "ten steps back, forward"],
  ["Home, End", "first, last step"],
  ["Page up, Page down", "previous, next example"],
  ["1 … 9", "example by its number"],
  ["W", "wrong examples only"],
  ["T", "light or dark"],
  ["?", "these keys"],
];

/** Signs of the buttons, drawn: not every font has them. */
const ICONS = {
  first: "M4 3v10M13 3L6 8l7 5z",
  back: "M10.5 3L5 8l5.5 5",
  play: "M4 2.5L13 8l-9 5.5z",
  pause: "M4 3h3v10H4zM9 3h3v10H9z",
  on: "M5.5 3L11 8l-5.5 5",
  last: "M12 3v10M3 3l7 5-7 5z",
};

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("class", `icon ${name}`);
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** One panel, or several strips, of all runs: a heading, and a view for each run. */
class Section {
  constructor(page, example, names) {
    Object.assign(this, { page, example, names });
    this.settings = { rebuild: () => this.rebuild(), redraw: () => this.resize(true) };
    this.views = [];
    this.loaded = null;
    const found = example.runs.flatMap((run) => run.panels.filter((panel) => names.includes(panel.name)));
    const notes = [...new Set(found.map((panel) => panel.note).filter(Boolean))];
    this.tools = make("div", { class: "tools" });
    this.body = make("div", { class: "runs" });
    this.list = make("ul");
    this.numbers = make("details", { class: "numbers", ontoggle: () => this.tell() }, [
      make("summary", {}, "Numbers of this step"), this.list,
    ]);
    this.element = make("section", { class: `panel ${found[0].kind}`, "aria-label": names.join(", ") }, [
      make("header", {}, [make("h3", {}, isolated(heading(names))), this.tools]),
      notes.map(noted),
      this.body,
      this.numbers,
    ]);
    this.columns = example.runs.map((run, number) => {
      const column = make("div", { class: "run" }, [
        example.runs.length > 1 ? make("h4", { title: run.name }, isolated(run.name)) : [],
        make("div", { class: "content" }),
      ]);
      this.body.append(column);
      return { column, content: column.lastChild, run, number };
    });
  }

  /** Unpacks and builds the views; once, when the section comes into sight. */
  load() {
    this.loaded ??= this.build();
    return this.loaded;
  }

  async build() {
    const { page, example, names, settings } = this;
    for (const { content, run, number } of this.columns) {
      const panels = run.panels.filter((panel) => names.includes(panel.name));
      for (const [i, panel] of panels.entries()) {
        const same = number ? example.runs[0].panels.find((each) => each.name === panel.name && each.kind === panel.kind) : null;
        const axis = i === panels.length - 1;
        const view = new VIEWS[panel.kind](panel, { page, example, run, number, first: same, settings, axis });
        await view.load();
        this.views.push({ view, content, number });
        content.append(view.element);
      }
      if (!panels.length) content.append(make("p", { class: "note" }, "Nothing to show for this run."));
    }
    this.resize(true);
  }

  rebuild() {
    for (const { view } of this.views) view.build();
    this.resize(true);
  }

  /** Draws everything again, if the width or the colours changed. */
  resize(always = false) {
    const width = Math.floor(this.columns.find(({ column }) => column.offsetWidth)?.content.clientWidth ?? 0);
    if (!width || (!always && width === this.width)) return;
    this.width = width;
    const first = this.views[0]?.view;
    if (first && !this.tools.contains(document.activeElement)) this.tools.replaceChildren(...first.controls(), ...first.legend());
    for (const { view } of this.views) view.resize(width);
    this.step(this.page.step);
  }

  step(step) {
    for (const { view } of this.views) view.step(step);
    this.tell();
  }

  tell() {
    if (!this.numbers.open) return;
    const many = this.columns.length > 1;
    this.list.replaceChildren(
      ...this.views.flatMap(({ view, number }) =>
        view.told(this.page.step).map((line) => make("li", {}, isolated((many ? `${this.example.runs[number].name}: ` : "") + line))),
      ),
    );
  }
}

/** A note: its first line, and the others when they are asked for. */
function noted(note) {
  const [first, ...more] = note.split("\n");
  if (!more.length) return make("p", { class: "note" }, first);
  return make("details", { class: "note" }, [make("summary", {}, first), more.map((line) => make("div", {}, line))]);
}

/** Names of panels as a heading. */
function heading(names) {
  const text = names.length > 1 ? `${names.slice(0, -1).join(", ")} and ${names.at(-1)}` : names[0];
  return text.charAt(0).toUpperCase() + text.slice(1);
}

class Page {
  constructor(data) {
    this.data = data;
    this.store = new Store(data.arrays);
    this.number = 0;
    this.step = 0;
    this.playing = false;
    this.sections = [];
    this.times = [];
    this.pending = false;
    this.build();
  }

  get example() {
    return this.data.examples[this.number];
  }

  // ---------------------------------------------------------------- what stays

  build() {
    const { data } = this;
    const about = Object.entries(data.about);
    this.themes = make("button", { type: "button", title: "light or dark (T)", onclick: () => this.turn() }, "Light / dark");
    this.help = make("dialog", { "aria-label": "keys" }, [
      make("h2", {}, "Keys"),
      make("dl", {}, KEYS.map(([key, what]) => [make("dt", {}, make("kbd", {}, key)), make("dd", {}, what)])),
      make("form", { method: "dialog" }, make("button", {}, "Close")),
    ]);
    const top = make("header", { class: "top" }, [
      make("div", { class: "title" }, [
        make("h1", {}, isolated(data.title)),
        make("div", { class: "buttons" }, [
          this.themes,
          make("button", { type: "button", title: "keys (?)", "aria-keyshortcuts": "?", onclick: () => this.help.showModal() }, "Keys ?"),
        ]),
      ]),
      about.length ? make("dl", { class: "about" }, about.map(([name, value]) => make("div", {}, [make("dt", {}, isolated(name)), make("dd", {}, isolated(value))]))) : [],
      data.notes.map((note) => make("p", { class: "remark", dir: "auto" }, note)),
    ]);
    this.items = data.examples.map((example, i) => {
      const wrong = isWrong(example);
      const right = example.runs[0].right === true;
      const verdict = example.runs[0].verdict;
      return make("li", { class: wrong ? "wrong" : "" }, make("button", {
        type: "button",
        onclick: (event) => {
          this.show(i);
          if (event.detail) event.currentTarget.blur(); // by mouse: the space bar is to play then
        },
      }, [
        make("span", { class: "sign", "aria-hidden": "true" }, wrong ? "✕" : right ? "✓" : "·"),
        wrong || right ? make("span", { class: "hidden" }, wrong ? "wrong: " : "right: ") : [],
        make("span", { class: "name" }, isolated(example.title)),
        verdict ? make("span", { class: "verdict" }, isolated(verdict)) : [],
      ]));
    });
    this.filter = make("input", { type: "checkbox", onchange: () => this.sieve() });
    const wrong = data.examples.filter(isWrong).length;
    this.list = make("details", { open: true }, [
      make("summary", {}, `Examples (${data.examples.length}${wrong ? `, ${wrong} wrong` : ""})`),
      wrong && wrong < data.examples.length ? make("label", { class: "filter" }, [this.filter, " wrong only"]) : [],
      make("ol", {}, this.items),
    ]);
    const aside = make("nav", { "aria-label": "examples" }, this.list);
    this.head = make("div", { class: "example-head" });
    this.panels = make("div", { class: "panels" });
    const main = make("main", {}, [this.head, this.transport(), this.panels]);
    document.getElementById("page").replaceChildren(top, make("div", { class: data.examples.length > 1 ? "layout" : "layout alone" }, [data.examples.length > 1 ? aside : [], main]), this.help, tip.element);
    if (matchMedia("(max-width: 860px)").matches) this.list.open = false;

    this.watcher = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const section = this.sections.find(({ element }) => element === target);
        if (!section) continue;
        section.seen = isIntersecting;
        if (isIntersecting) section.load().then(() => this.draw());
      }
    }, { rootMargin: "300px" });
    new ResizeObserver(() => this.resize()).observe(this.panels);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.resize(true));
    addEventListener("beforeprint", () => this.sections.forEach((section) => section.load()));
    document.addEventListener("keydown", (event) => this.key(event));
    addEventListener("hashchange", () => this.follow());
    if (!this.follow()) this.show(0);
  }

  transport() {
    const button = (label, sign, title, onclick) => make("button", { type: "button", "aria-label": label, title, onclick }, icon(sign));
    this.player = button("play", "play", "play, pause (space)", () => this.play(!this.playing));
    this.slider = make("input", { type: "range", min: 0, value: 0, "aria-label": "step", oninput: () => this.go(Number(this.slider.value)) });
    this.marks = make("div", { class: "marks", "aria-hidden": "true" });
    this.told = make("output", { class: "told", "aria-live": "polite" });
    this.speed = make("select", { "aria-label": "speed" }, SPEEDS.map((speed) => make("option", { value: speed, selected: speed === 4 }, `${speed} steps/s`)));
    this.layout = make("select", { "aria-label": "how the runs are laid out", onchange: () => this.arrange() }, []);
    this.layoutLabel = make("label", { class: "runs-choice" }, ["runs ", this.layout]);
    return make("div", { class: "transport", role: "group", "aria-label": "time" }, [
      make("div", { class: "buttons" }, [
        button("first step", "first", "first step (Home)", () => this.go(0)),
        button("one step back", "back", "one step back (←)", () => this.go(this.step - 1)),
        this.player,
        button("one step forward", "on", "one step forward (→)", () => this.go(this.step + 1)),
        button("last step", "last", "last step (End)", () => this.go(Infinity)),
      ]),
      make("div", { class: "slide" }, [this.slider, this.marks]),
      this.told,
      make("div", { class: "choices" }, [this.speed, this.layoutLabel]),
    ]);
  }

  /** Shows the wrong examples alone, or all. */
  sieve() {
    this.items.forEach((item, i) => {
      item.hidden = this.filter.checked && !isWrong(this.data.examples[i]);
    });
  }

  turn() {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    this.resize(true);
  }

  // ---------------------------------------------------------------- an example

  show(number, step = 0) {
    this.play(false);
    this.watcher.disconnect();
    this.store.forget();
    this.number = Math.max(0, Math.min(this.data.examples.length - 1, number));
    const { example } = this;
    this.items.forEach((item, i) => item.firstChild.setAttribute("aria-current", i === this.number ? "true" : "false"));
    this.head.replaceChildren(
      make("h2", {}, isolated(example.title)),
      ...(example.text ? [make("p", { class: "text", dir: "auto" }, example.text)] : []),
      make("ul", { class: "verdicts" }, example.runs.filter((run) => run.verdict || run.right !== null || example.runs.length > 1).map((run) =>
        make("li", { class: run.right === false ? "wrong" : run.right ? "right" : "" }, [
          make("span", { class: "sign", "aria-hidden": "true" }, run.right === false ? "✕" : run.right ? "✓" : "·"),
          example.runs.length > 1 ? [isolated(run.name), ": "] : " ",
          isolated(run.verdict || (run.right === false ? "wrong" : run.right ? "right" : "")),
          run.changed_from !== null ? make("span", { class: "note" }, ` (changed from step ${run.changed_from} on)`) : [],
        ]))),
    );
    const many = example.runs.length > 1;
    this.layoutLabel.hidden = !many;
    this.layout.replaceChildren(...[["beside", "side by side"], ["below", "one below the other"], ...example.runs.map((run, i) => [String(i), `only: ${run.name}`])].map(([value, name]) => make("option", { value }, name)));
    this.slider.max = example.steps.length - 1;
    this.markSlider();
    this.sections = groups(example).map((names) => new Section(this, example, names));
    this.panels.classList.toggle("many", many);
    // Few steps leave room for two panels side by side.
    this.panels.classList.toggle("short", !many && example.steps.length <= 14);
    this.panels.replaceChildren(...this.sections.map(({ element }) => element));
    this.arrange();
    this.step = -1;
    this.go(step);
    for (const { element } of this.sections) this.watcher.observe(element);
  }

  /** Marks on the slider: where the answer begins, where a change takes hold, what is wrong. */
  async markSlider() {
    const { example } = this;
    const last = Math.max(1, example.steps.length - 1);
    const mark = (step, name, text, title) => make("span", { class: name, style: `left: calc(8px + (100% - 16px) * ${step / last})`, title }, text);
    const marks = [];
    if (example.split > 0) marks.push(mark(example.split, "split", "", "the answer begins"));
    for (const run of example.runs) {
      if (run.changed_from !== null) marks.push(mark(run.changed_from, "changed", "◆", `${run.name}: changed from here on`));
    }
    for (const panel of example.runs[0].panels.filter((each) => each.kind === "strip" && each.wrong !== null)) {
      const wrong = await this.store.get(panel.wrong);
      for (let step = 0; step < wrong.shape[0]; step++) {
        if ([wrong.entry(step)].flat().some((value) => value > 0.5)) marks.push(mark(panel.start + step, "miss", "✕", "wrong here"));
      }
    }
    if (example === this.example) this.marks.replaceChildren(...marks);
  }

  /** Lays the runs out: side by side, one below the other, or one alone. */
  arrange() {
    const chosen = this.layout.value;
    this.panels.dataset.layout = /^\d+$/.test(chosen) ? "one" : chosen;
    for (const section of this.sections) {
      section.columns.forEach(({ column, number }) => {
        column.hidden = /^\d+$/.test(chosen) && Number(chosen) !== number;
      });
      if (section.loaded) section.loaded.then(() => section.resize(true));
    }
  }

  resize(always = false) {
    for (const section of this.sections) if (section.views.length) section.resize(always);
  }

  // ---------------------------------------------------------------- a step

  go(step) {
    const last = this.example.steps.length - 1;
    step = Math.max(0, Math.min(last, step));
    if (step === this.step) return;
    this.step = step;
    this.slider.value = step;
    const name = this.example.steps[step];
    this.slider.setAttribute("aria-valuetext", `step ${step} of ${last}: ${name}`);
    this.told.replaceChildren(make("span", { class: "count" }, `step ${step} / ${last}`), " ", isolated(name));
    if (!this.pending) {
      this.pending = true;
      requestAnimationFrame(() => this.draw());
    }
    clearTimeout(this.later);
    this.later = setTimeout(() => this.remember(), 300);
  }

  /** Draws the step at hand in all sections that are in sight. */
  draw() {
    this.pending = false;
    const began = performance.now();
    for (const section of this.sections) if (section.seen && section.views.length) section.step(this.step);
    this.times.push(performance.now() - began);
    if (this.times.length > 600) this.times.shift();
  }

  play(on) {
    if (on && this.step >= this.example.steps.length - 1) this.go(0);
    this.playing = on;
    if (!this.player) return;
    this.player.replaceChildren(icon(on ? "pause" : "play"));
    this.player.setAttribute("aria-label", on ? "pause" : "play");
    this.told.setAttribute("aria-live", on ? "off" : "polite");
    if (!on) return;
    let last = performance.now();
    const tick = (time) => {
      if (!this.playing) return;
      const steps = Math.floor(((time - last) / 1000) * Number(this.speed.value));
      if (steps > 0) {
        last += (steps * 1000) / Number(this.speed.value);
        this.go(this.step + steps);
        if (this.step >= this.example.steps.length - 1) return void this.play(false);
      }
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  // ---------------------------------------------------------------- keys and the address

  key(event) {
    const { target } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || this.help.open) return;
    if (target.closest("select, textarea, input:not([type=range]):not([type=checkbox])")) return;
    const pressed = target.closest("button:not(.chip), summary, a, input[type=checkbox]");
    const far = event.shiftKey ? 10 : 1;
    const actions = {
      " ": pressed ? null : () => this.play(!this.playing),
      ArrowRight: () => this.go(this.step + far),
      ArrowLeft: () => this.go(this.step - far),
      Home: () => this.go(0),
      End: () => this.go(Infinity),
      PageDown: () => this.other(1),
      PageUp: () => this.other(-1),
      "?": () => this.help.showModal(),
      w: () => {
        if (!this.filter.isConnected) return;
        this.filter.checked = !this.filter.checked;
        this.sieve();
      },
      t: () => this.turn(),
    };
    const action = /^[1-9]$/.test(event.key) ? () => Number(event.key) <= this.data.examples.length && this.show(Number(event.key) - 1) : actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  /** Shows the example before or after; with the filter on, the wrong one. */
  other(by) {
    let number = this.number + by;
    while (this.items[number]?.hidden) number += by;
    if (this.items[number]) this.show(number);
  }

  /** Writes the example and the step into the address, so that a link leads there. */
  remember() {
    const hash = `#example=${this.number + 1}&step=${this.step}`;
    try {
      if (location.hash !== hash) history.replaceState(null, "", hash);
    } catch {
      // A page within a frame may have no address of its own.
    }
  }

  /** Goes where the address says, if it says. */
  follow() {
    const found = /^#example=(\d+)&step=(\d+)$/.exec(location.hash);
    if (!found) return false;
    const [number, step] = [Number(found[1]) - 1, Number(found[2])];
    if (number === this.number && this.sections.length) this.go(step);
    else this.show(number, step);
    return true;
  }

  // ---------------------------------------------------------------- for tests

  /** All that is shown at the step at hand, as numbers and words. */
  async state() {
    const { example, step } = this;
    const values = async (panel) => {
      const local = step - panel.start;
      if (panel.kind === "drawing") return panel.answer.slice(0, Math.max(0, local + 1)).flat();
      if (local < 0 || local >= panel.steps) return null;
      if (panel.words) return panel.words[local];
      const numbers = await this.store.get(panel.kind === "heads" ? panel.weights : panel.kind === "cells" ? panel.memory : panel.values);
      if (panel.kind !== "cells") return numbers.entry(local);
      return { before: numbers.entry(local), after: numbers.entry(local + 1) };
    };
    return {
      title: this.data.title,
      dark: isDark(),
      example: this.number,
      examples: this.data.examples.map(({ title }) => title),
      step,
      steps: example.steps.length,
      name: example.steps[step],
      playing: this.playing,
      notes: this.data.notes,
      runs: await Promise.all(example.runs.map(async (run) => ({
        name: run.name,
        panels: await Promise.all(run.panels.map(async (panel) => ({ kind: panel.kind, name: panel.name, values: await values(panel) }))),
      }))),
    };
  }

  view(name, run) {
    const section = this.sections.find(({ names }) => names.includes(name));
    return section?.views.find(({ view, number }) => view.panel.name === name && number === run)?.view;
  }
}

/** Whether the first run of an example answers wrongly. */
function isWrong(example) {
  return example.runs[0].right === false;
}

/** Names of the panels of each section: strips one after the other share one. */
function groups(example) {
  const all = [];
  for (const run of example.runs) {
    for (const panel of run.panels) if (!all.some(({ name }) => name === panel.name)) all.push(panel);
  }
  const found = [];
  all.forEach((panel, i) => {
    if (panel.kind === "strip" && all[i - 1]?.kind === "strip") found.at(-1).push(panel.name);
    else found.push([panel.name]);
  });
  return found;
}

/**
 * Starts the page.
 *
 * `window.memnets` lets a test, or a curious person at the console, ask what is shown:
 * `await memnets.state()`, all numbers of the step at hand; `memnets.go(step)`; `memnets.show(example)`,
 * from 0; `await memnets.ready()`, when all that is in sight is drawn; `memnets.place(panel, run, ...)`,
 * the middle of a cell in the window: step, row and (of weights) head for a picture over time; slot,
 * column and "before", "erased", "added" or "after" for cells; row and column for a matrix;
 * `memnets.colour(low, high, value, strip)`, its colour in a strip or elsewhere; `memnets.times()`, milliseconds of the last redraws.
 */
function start(data) {
  const page = new Page(data);
  window.memnets = {
    state: () => page.state(),
    go: (step) => page.go(step),
    show: (number, step) => page.show(number, step),
    ready: async () => {
      const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
      await frame();
      await frame();
      await Promise.all(page.sections.map(({ loaded }) => loaded));
      await frame();
    },
    place: (name, run, ...place) => page.view(name, run)?.place(...place),
    colour: (low, high, value, ink) => new Scale(low, high, ink).rgb(value),
    times: () => page.times.slice(),
  };
}
