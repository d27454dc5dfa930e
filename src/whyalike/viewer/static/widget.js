// @ts-check
/**
 * The viewer in a notebook: what anywidget asks for, around the same modules as the pages. The
 * model's `_state` is the viewer's, both ways; a mark is told once it is chosen, not while the
 * pointer only passes, so that a hover costs the kernel nothing.
 */

import { mount } from "./viewer.js";
import { mountResults } from "./results.js";

/** @typedef {import("./viewer.js").State} State */
/** @typedef {import("./viewer.js").ViewerData} ViewerData */
/** @typedef {import("./results.js").ResultsData} ResultsData */
/** @typedef {ReturnType<typeof mount>} Viewer */
/**
 * What anywidget gives: traits by name, and word when they change.
 * @typedef {{ get(name: string): any, set(name: string, value: any): void, save_changes(): void, on(event: string, listener: () => void): void, off(event: string, listener: () => void): void }} Model
 */

/** Wait for a drag to rest before it is told, in milliseconds. */
const TELL_AFTER = 80;

/** The notebook's own theme, where it says one. @returns {"light" | "dark" | undefined} */
function theme() {
  const { dataset, classList } = document.body;
  if (dataset.jpThemeLight === "false" || classList.contains("vscode-dark")) return "dark";
  if (dataset.jpThemeLight === "true" || classList.contains("vscode-light")) return "light";
  return undefined;
}

/** Keeps a viewer and the model in one state. @param {Model} model @param {Viewer} viewer */
function bind(model, viewer) {
  /** The state that both have, as text. @type {string | null} */
  let shared = null;
  let waiting = 0;
  /** What is told of a state. @param {State} state @returns {State} */
  const told = (state) => ({ ...state, mark: state.pinned ? state.mark : null });
  const stop = viewer.on("change", (state) => {
    clearTimeout(waiting);
    const chosen = told(state);
    const text = JSON.stringify(chosen);
    if (shared === null) shared = text; // as it began
    if (shared === text) return;
    waiting = setTimeout(() => {
      shared = text;
      model.set("_state", chosen);
      model.save_changes();
    }, TELL_AFTER);
  });
  const follow = () => {
    const state = model.get("_state");
    if (JSON.stringify(state) === shared) return;
    viewer.setState(state);
    shared = JSON.stringify(told(viewer.state));
  };
  model.on("change:_state", follow);
  return () => {
    clearTimeout(waiting);
    stop();
    model.off("change:_state", follow);
  };
}

/** @param {Model} model @param {HTMLElement} element @param {ViewerData} data */
function showPair(model, element, data) {
  const viewer = mount(element, data, { state: model.get("_state"), theme: theme() });
  const untie = bind(model, viewer);
  return () => {
    untie();
    viewer.destroy();
  };
}

/** @param {Model} model @param {HTMLElement} element @param {ResultsData} data */
function showRanking(model, element, data) {
  let untie = () => {};
  const results = mountResults(element, data, (opened, viewer) => {
    untie();
    untie = () => {};
    if (viewer) {
      viewer.setState(model.get("_state"));
      untie = bind(model, viewer);
    }
    const rank = opened?.ranking === "hits" ? opened.index + 1 : null;
    if (model.get("opened") === rank) return;
    model.set("opened", rank);
    model.save_changes();
  });
  const dress = theme();
  for (const part of element.querySelectorAll(".wa-root, .wr-pair")) {
    if (dress) /** @type {HTMLElement} */ (part).style.colorScheme = dress;
  }
  const follow = () => {
    const rank = model.get("opened");
    results.show(rank === null ? null : { ranking: "hits", index: rank - 1 });
  };
  model.on("change:opened", follow);
  follow();
  return () => {
    untie();
    model.off("change:opened", follow);
    results.destroy();
  };
}

export default {
  /** @param {{ model: Model, el: HTMLElement }} view */
  render({ model, el }) {
    const data = model.get("_data");
    return data.photos ? showRanking(model, el, data) : showPair(model, el, data);
  },
};
