"use strict";
// The players of a page. All versions of an item run together from one start and only their gains change, so
// that a switch keeps the position to the sample. One item sounds at a time; only its audio is held decoded.
(() => {
  const FADE_SECONDS = 0.0015; // time constant: 99 % of a switch within 7 ms
  const DIP_SECONDS = 0.012; // switches of the blind test pass through silence: none gives X away by its sound
  const START_SECONDS = 0.02;
  const STEP_SECONDS = 0.5;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const press = (button, pressed) => button.setAttribute("aria-pressed", String(pressed));
  const rate = Number(document.body.dataset.rate);
  let context = null;
  let current = null; // the comparison that sounds, and that keys act on

  function decoded(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return context.decodeAudioData(bytes.buffer);
  }

  class Player {
    #blind = false; // what sounds is chosen by the blind test and named by its letter
    #version = 0;
    #buffers = null;
    #graph = null;
    #anchor = 0; // context time at which `#offset` sounded
    #offset = 0;

    constructor(card) {
      this.card = card;
      this.wanted = false;
      this.loop = true;
      this.label = "";
      this.seconds = Number(card.dataset.seconds);
      this.play = card.querySelector(".play");
      this.bar = card.querySelector(".position");
      this.time = card.querySelector(".time");
      this.versions = all(".version", card);
      this.cursors = all(".cursor", card); // lines in pictures of [0, 100] wide
      this.names = this.versions.map((button) => button.textContent);
      this.play.addEventListener("click", () => this.toggle());
      card.querySelector(".loop").addEventListener("click", () => this.setLoop(!this.loop));
      this.bar.addEventListener("input", () => this.seek(Number(this.bar.value) * this.seconds));
      this.versions.forEach((button, version) => button.addEventListener("click", () => this.hear(version)));
      all(".seekable", card).forEach((picture) => picture.addEventListener("click", (event) => {
        const { left, width } = picture.getBoundingClientRect();
        this.seek(((event.clientX - left) / width) * this.seconds);
      }));
      card.addEventListener("pointerdown", () => choose(this));
      card.addEventListener("focusin", () => choose(this));
      this.hear(0);
      this.trial = new Trial(this);
    }

    get blind() { return this.#blind; }

    get playing() { return this.#graph !== null; }

    get position() {
      if (!this.#graph) return this.#offset;
      const position = this.#offset + Math.max(0, context.currentTime - this.#anchor);
      return this.loop ? position % this.seconds : Math.min(position, this.seconds);
    }

    toggle() { return this.wanted ? this.pause() : this.start(); }

    async start() {
      choose(this);
      this.wanted = true;
      this.show();
      context ??= new AudioContext({ sampleRate: rate });
      try {
        await context.resume();
        if (!this.#buffers) {
          const encoded = JSON.parse(this.card.querySelector("script").textContent);
          this.#buffers = await Promise.all(encoded.map(decoded));
          this.seconds = Math.min(...this.#buffers.map((buffer) => buffer.duration));
        }
        if (this.wanted && !this.#graph) this.#run();
      } catch (error) {
        this.wanted = false;
        this.card.querySelector(".trouble").textContent = `This browser cannot play it: ${error.message}`;
      }
      this.show();
    }

    #run() {
      const master = new GainNode(context, { gain: 0 });
      master.connect(context.destination);
      this.#anchor = context.currentTime + START_SECONDS;
      const sources = this.#buffers.map((buffer) => new AudioBufferSourceNode(context, { buffer, loop: this.loop }));
      const gains = sources.map((source, version) => {
        const gain = new GainNode(context, { gain: Number(version === this.#version) });
        source.connect(gain).connect(master);
        source.start(this.#anchor, this.#offset);
        return gain;
      });
      master.gain.setTargetAtTime(1, this.#anchor, FADE_SECONDS);
      const graph = { master, sources, gains };
      sources[0].addEventListener("ended", () => this.#graph === graph && this.pause(0));
      this.#graph = graph;
      this.#draw(graph);
    }

    #stop() {
      this.#offset = this.position;
      if (!this.#graph) return;
      const { master, sources } = this.#graph;
      this.#graph = null;
      master.gain.cancelScheduledValues(context.currentTime);
      master.gain.setTargetAtTime(0, context.currentTime, FADE_SECONDS);
      sources.forEach((source) => source.stop(context.currentTime + 10 * FADE_SECONDS));
    }

    pause(position = this.position) {
      this.wanted = false;
      this.#stop();
      this.#offset = position;
      this.show();
    }

    release() { this.pause(); this.#buffers = null; }

    seek(seconds) {
      const running = this.playing;
      this.#stop();
      this.#offset = Math.min(Math.max(seconds, 0), this.seconds * 0.999);
      if (running) this.#run();
      this.show();
    }

    setLoop(loop) {
      this.#offset = this.position;
      if (this.#graph) this.#anchor = Math.max(this.#anchor, context.currentTime);
      this.loop = loop;
      this.#graph?.sources.forEach((source) => (source.loop = loop));
      this.show();
    }

    // Make a version the one that sounds. `letter`: as what the blind test names it.
    hear(version, letter = "") {
      const dip = this.#blind || letter !== "" ? DIP_SECONDS : 0;
      this.#version = version;
      this.#blind = letter !== "";
      this.label = letter || this.names[version];
      if (this.#graph) {
        const now = context.currentTime;
        const { master, gains } = this.#graph;
        for (const { gain } of [master, ...gains]) gain.cancelScheduledValues(now);
        if (dip) master.gain.setTargetAtTime(0, now, FADE_SECONDS);
        gains.forEach(({ gain }, other) => gain.setTargetAtTime(Number(other === version), now + dip, FADE_SECONDS));
        master.gain.setTargetAtTime(1, Math.max(now + 2 * dip, this.#anchor), FADE_SECONDS);
      }
      this.show();
    }

    show() {
      this.play.textContent = this.wanted ? "Pause" : "Play";
      press(this.card.querySelector(".loop"), this.loop);
      this.versions.forEach((button, version) => press(button, !this.#blind && version === this.#version));
      for (const button of all("[data-letter]", this.card)) {
        press(button, this.#blind && button.dataset.letter === this.label);
      }
      this.#tick();
    }

    #tick() {
      this.bar.value = String(this.position / this.seconds);
      for (const line of this.cursors) {
        for (const end of ["x1", "x2"]) line.setAttribute(end, String((100 * this.position) / this.seconds));
      }
      this.time.textContent = `${this.position.toFixed(1)} / ${this.seconds.toFixed(1)} s`;
    }

    #draw(graph) {
      if (this.#graph !== graph) return;
      this.#tick();
      requestAnimationFrame(() => this.#draw(graph));
    }
  }

  // Which of two versions is X is drawn anew for every answer, and written nowhere before it.
  class Trial {
    #second = false;
    #heard = false;

    constructor(player) {
      this.player = player;
      this.right = 0;
      this.answers = 0;
      const part = (name) => player.card.querySelector(name);
      this.verdict = part(".verdict");
      this.count = part(".count");
      this.pair = all("select", player.card);
      this.pair.forEach((select) => select.addEventListener("change", () => this.reset()));
      all("[data-letter]", player.card).forEach((button) =>
        button.addEventListener("click", () => this.listen(button.dataset.letter)));
      this.buttons = all("[data-answer]", player.card);
      this.buttons.forEach((button) => button.addEventListener("click", () => this.answer(button.dataset.answer)));
      part(".reset").addEventListener("click", () => this.reset());
      this.draw();
    }

    // The versions of A and B: what the page lets choose, or the first two.
    get two() { return this.pair.length ? this.pair.map((select) => Number(select.value)) : [0, 1]; }

    draw() {
      this.#second = Boolean(crypto.getRandomValues(new Uint8Array(1))[0] & 1);
      this.#heard = false;
      this.show();
    }

    show() {
      const [first, second] = this.two;
      this.buttons.forEach((button) => (button.disabled = !this.#heard || first === second));
      if (first === second) this.verdict.textContent = "Choose two different versions.";
      const chance = chanceOf(this.right, this.answers);
      this.count.textContent = this.answers
        ? `${this.right} right of ${this.answers} · p = ${chance < 0.001 ? chance.toExponential(1) : chance.toFixed(3)}`
        : "No answers yet.";
    }

    listen(letter) {
      const x = this.two[Number(this.#second)];
      this.player.hear({ A: this.two[0], B: this.two[1], X: x }[letter], letter);
      if (!this.player.wanted) this.player.start();
      this.#heard ||= letter === "X";
      this.show();
    }

    answer(letter) {
      const truth = this.#second ? "B" : "A";
      const name = this.player.names[this.two[Number(this.#second)]];
      this.right += Number(letter === truth);
      this.answers += 1;
      this.verdict.textContent = `${letter === truth ? "Right" : "Wrong"}: X was ${truth}, ${name}.`;
      this.player.hear(this.two[0], "A"); // were X still heard, its change now would tell the next one
      this.draw();
    }

    reset() {
      this.right = this.answers = 0;
      this.verdict.textContent = "";
      if (this.player.blind) this.player.hear(this.two[0], "A");
      this.draw();
    }
  }

  // The chance of at least `right` of `answers` by guessing.
  function chanceOf(right, answers) {
    let ways = 1;
    let sum = 0;
    for (let number = answers; number >= right; number -= 1) {
      sum += ways * 0.5 ** answers;
      ways *= number / (answers - number + 1);
    }
    return sum;
  }

  function choose(player) {
    if (player === current) return;
    current?.release();
    current?.card.removeAttribute("aria-current");
    current = player;
    player?.card.setAttribute("aria-current", "true");
  }

  const players = all(".comparison").map((card) => new Player(card));
  const pickers = all("[data-group]");
  function pick(group) {
    pickers.forEach((button) => press(button, button.dataset.group === group));
    players.forEach(({ card }) => (card.hidden = card.dataset.of !== group));
    choose(players.find(({ card }) => !card.hidden) ?? null);
  }
  pickers.forEach((button) => button.addEventListener("click", () => pick(button.dataset.group)));
  if (players.length) pick(players[0].card.dataset.of);

  // What keys do, outside of buttons elsewhere on the page.
  function act(event) {
    const step = { ArrowLeft: -STEP_SECONDS, ArrowRight: STEP_SECONDS }[event.key];
    const letter = event.key.toUpperCase();
    if (event.key === " ") current.toggle();
    else if (step) current.seek(current.position + step);
    else if (/^[1-9]$/.test(event.key) && current.versions[event.key - 1]) current.hear(event.key - 1);
    else if (letter === "L") current.setLoop(!current.loop);
    else if ("ABX".includes(letter) && current.card.querySelector("details").open) current.trial.listen(letter);
    else return;
    event.preventDefault();
  }
  const ours = (event) => {
    if (!current || event.ctrlKey || event.metaKey || event.altKey) return false;
    if (event.target.closest("select, summary, a")) return false;
    return Boolean(event.target.closest(".comparison")) || !event.target.closest("button");
  };
  document.addEventListener("keydown", (event) => ours(event) && act(event));
  // Firefox presses a button when the space bar comes up again; in a comparison that key means play and pause.
  document.addEventListener("keyup", (event) => event.key === " " && ours(event) && event.preventDefault());

  const state = () => Object.freeze({
    comparison: current ? players.indexOf(current) : null,
    heard: current?.label ?? null,
    position: current?.position ?? 0,
    playing: Boolean(current?.playing),
    loop: Boolean(current?.loop),
  });
  Object.defineProperty(window, "apolloPlayer", { get: state }); // to look at, not to touch
})();
