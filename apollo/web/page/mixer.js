// Plays a song from pieces of a few seconds: input, output without noise, and noise run together from one start,
// and only their gains change. So a switch keeps the position to the sample, and the strength is heard at once.
import * as api from "./api.js";

const FADE_SECONDS = 0.0015; // time constant: 99 % of a switch within 7 ms
const STRENGTH_FADE_SECONDS = 0.02;
const START_SECONDS = 0.05;
const AHEAD_PIECES = 2; // decoded and scheduled beside the one that sounds
const MOST_PIECES = 6; // kept decoded: 25 MB
const SCHEDULE_MILLISECONDS = 250;

export class Mixer {
  #open;
  #context = null;
  #song;
  #listening;
  #pieces = new Map(); // number -> promise of the parts' buffers, the least recently used first
  #graph = null;
  #offset = 0; // in samples: where it plays from, or stands
  #anchor = 0; // in samples of the context: when `#offset` sounds
  #version = "after";
  #strength = 0;
  onended = () => {};
  ontrouble = () => {};

  // `open`: returns the context, of the song's sample rate, so that nothing is resampled.
  constructor(open, song, strength) {
    this.#open = open;
    this.#song = song.id;
    this.#listening = song.listening;
    this.#strength = strength;
  }

  get seconds() { return this.#listening.samples / this.#listening.sample_rate; }

  get playing() { return this.#graph !== null; }

  get version() { return this.#version; }

  get strength() { return this.#strength; }

  get position() { return this.#sample / this.#listening.sample_rate; }

  get #sample() {
    if (!this.#graph) return this.#offset;
    const now = this.#context.currentTime * this.#listening.sample_rate;
    return Math.min(this.#offset + Math.max(0, now - this.#anchor), this.#listening.samples);
  }

  // Returns when the first piece is scheduled.
  async play() {
    if (this.#graph) return;
    this.#context ??= this.#open();
    if (this.#offset >= this.#listening.samples) this.#offset = 0;
    const graph = (this.#graph = this.#build());
    this.#anchor = Infinity; // nothing sounds before its first piece is there
    await this.#scheduleDue(graph);
  }

  pause() {
    const graph = this.#graph;
    if (!graph) return;
    this.#offset = Math.round(this.#sample);
    this.#graph = null;
    clearTimeout(graph.timer);
    const now = this.#context.currentTime;
    graph.master.gain.setTargetAtTime(0, now, FADE_SECONDS);
    for (const source of graph.sources) source.stop(now + 10 * FADE_SECONDS);
  }

  async seek(seconds) {
    const running = this.playing;
    this.pause();
    const sample = Math.round(seconds * this.#listening.sample_rate);
    this.#offset = Math.min(Math.max(sample, 0), this.#listening.samples - 1);
    if (running) await this.play();
  }

  setVersion(version) {
    this.#version = version;
    this.#setGains(FADE_SECONDS);
  }

  setStrength(strength) {
    this.#strength = strength;
    this.#setGains(STRENGTH_FADE_SECONDS);
  }

  #gains() {
    const { gain, output_gains: outputs, strength_step: step } = this.#listening;
    const after = Number(this.#version === "after");
    // both versions get the gain with which the output fits full scale, so that they are compared at one level
    const fit = outputs[Math.min(Math.round(this.#strength / step), outputs.length - 1)];
    return { before: 1 - after, deterministic: after, noise: after * this.#strength, master: gain * fit };
  }

  #build() {
    const gains = this.#gains();
    const nodes = Object.fromEntries(
      Object.entries(gains).map(([name, gain]) => [name, new GainNode(this.#context, { gain })]),
    );
    for (const name of ["before", "deterministic", "noise"]) nodes[name].connect(nodes.master);
    nodes.master.connect(this.#context.destination);
    return { ...nodes, sources: new Set(), next: null, timer: 0 };
  }

  #setGains(fade) {
    if (!this.#graph) return;
    for (const [name, gain] of Object.entries(this.#gains())) {
      this.#graph[name].gain.setTargetAtTime(gain, this.#context.currentTime, fade);
    }
  }

  // Schedule the pieces that are due soon, and come again.
  async #scheduleDue(graph) {
    const { piece_samples: length, pieces } = this.#listening;
    try {
      graph.next ??= Math.floor(this.#offset / length);
      while (graph.next < pieces && graph.next <= Math.floor(this.#sample / length) + AHEAD_PIECES) {
        const buffers = await this.#load(graph.next);
        if (this.#graph !== graph) return;
        this.#schedule(graph, graph.next, buffers);
        graph.next += 1;
      }
    } catch (error) {
      if (this.#graph !== graph) return;
      this.pause();
      this.ontrouble(error);
      return;
    }
    if (this.#sample >= this.#listening.samples) {
      this.pause();
      this.#offset = 0;
      this.onended();
    } else {
      graph.timer = setTimeout(() => this.#scheduleDue(graph), SCHEDULE_MILLISECONDS);
    }
  }

  #schedule(graph, number, buffers) {
    const { piece_samples: length, sample_rate: rate } = this.#listening;
    const soon = Math.ceil((this.#context.currentTime + START_SECONDS) * rate);
    const begin = number * length;
    const skipped = Math.max(this.#offset - begin, 0); // of the piece in which it starts
    if (this.#anchor === Infinity) {
      this.#anchor = soon;
    } else if (this.#anchor + begin - this.#offset < this.#context.currentTime * rate) {
      this.#offset = begin; // the piece came too late: go on with it, all parts together
      this.#anchor = soon;
    }
    const when = (this.#anchor + begin + skipped - this.#offset) / rate;
    for (const [part, buffer] of Object.entries(buffers)) {
      const source = new AudioBufferSourceNode(this.#context, { buffer });
      source.connect(graph[part]);
      source.start(when, skipped / rate);
      graph.sources.add(source);
      source.addEventListener("ended", () => graph.sources.delete(source));
    }
  }

  // Return the buffers of a piece by part.
  #load(number) {
    const found = this.#pieces.get(number) ?? this.#fetch(number);
    this.#pieces.delete(number);
    this.#pieces.set(number, found);
    found.catch(() => this.#pieces.delete(number));
    if (this.#pieces.size > MOST_PIECES) this.#pieces.delete(this.#pieces.keys().next().value);
    return found;
  }

  async #fetch(number) {
    const parts = this.#listening.parts;
    const buffers = await Promise.all(parts.map(async (part) =>
      this.#context.decodeAudioData(await api.piece(this.#song, part, number))));
    return Object.fromEntries(parts.map((part, index) => [part, buffers[index]]));
  }
}
