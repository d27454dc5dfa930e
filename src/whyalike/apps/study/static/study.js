// @ts-check
/**
 * A questionnaire of two robots: consent, one question at a time, and the answers, which go to a
 * file or, each at once, to the server that the page came from. Nothing here knows which robot is
 * which method.
 */

/** @typedef {{ src: string, says: string }} Picture */
/** @typedef {{ id: string, asks: string, shared: Picture[], left: Picture[], right: Picture[] }} Question */
/** @typedef {{ format: 1, study: string, kind: string, title: string, consent: string[], instructions: string[], labels: string[], count: number, server: boolean, slot?: number, questions?: Question[] }} Study */
/** @typedef {{ answer: number, seconds: number }} Answer */
/** @typedef {{ rater: string, slot: number, began: string, at: number, answers: Record<string, Answer> }} Progress */

/**
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag @param {Record<string, string>} attributes @param {(Node | string)[]} children
 * @returns {HTMLElementTagNameMap[T]}
 */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** @param {string[]} texts */
const paragraphs = (texts) => texts.map((text) => make("p", {}, text));

/** A name for who answers that says nothing of who they are. */
function randomName() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** What a reload must not lose, where the browser keeps it. @param {string} key */
function memory(key) {
  return {
    /** @returns {Progress | null} */
    read() {
      try {
        return JSON.parse(sessionStorage.getItem(key) ?? "null");
      } catch {
        return null;
      }
    },
    /** @param {Progress} progress */
    write(progress) {
      try {
        sessionStorage.setItem(key, JSON.stringify(progress));
      } catch {
        // then a reload begins anew
      }
    },
  };
}

/** Asks the server. @param {string} path @param {object} body @returns {Promise<any>} */
async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error ?? `the server answered ${response.status}`);
  return answer;
}

/** @param {Picture[]} pictures */
function gallery(pictures) {
  const list = make("div", { class: "ws-pictures" });
  for (const { src, says } of pictures)
    list.append(
      make("div", { class: "ws-picture" }, make("img", { src, alt: says, draggable: "false" })),
    );
  return list;
}

/** @param {"A" | "B"} letter @param {Picture[]} pictures */
function robot(letter, pictures) {
  return make(
    "section",
    { class: "ws-robot", "aria-label": `Robot ${letter}` },
    make("h2", {}, make("span", { class: "ws-letter", "aria-hidden": "true" }, letter), `Robot ${letter}`),
    gallery(pictures),
  );
}

/** Builds the study inside an element. @param {HTMLElement} element @param {Study} study */
export function startStudy(element, study) {
  if (study.format !== 1) throw new Error(`this page asks studies of format 1; came ${study.format}`);
  const root = make("div", { class: "wa-root ws-root" });
  const status = make("p", { class: "ws-status", role: "status" });
  element.append(root);
  const kept = memory(`whyalike-study-${study.study}-${study.slot ?? "server"}`);
  const key = new URLSearchParams(location.search).get("key") ?? "";
  /** @type {Question[]} */
  let questions = study.questions ?? [];
  /** @type {Progress} */
  let progress = kept.read() ?? {
    rater: "",
    slot: study.slot ?? -1,
    began: "",
    at: 0,
    answers: {},
  };
  /** When the question on the screen was shown. */
  let shown = 0;
  let busy = false;

  /** Shows a screen, and begins reading at its heading. @param {Node[]} parts */
  function screen(...parts) {
    root.replaceChildren(...parts, status);
    status.textContent = "";
    status.classList.remove("ws-bad");
    const heading = root.querySelector("h1, h2");
    if (heading instanceof HTMLElement) {
      heading.tabIndex = -1;
      heading.focus({ preventScroll: true });
    }
    window.scrollTo(0, 0);
  }

  /** @param {string} text @param {boolean} bad */
  function say(text, bad = false) {
    status.textContent = text;
    status.classList.toggle("ws-bad", bad);
  }

  /** Does what may fail, and says so; the screen stays. @param {() => Promise<void>} work */
  async function attempt(work) {
    if (busy) return;
    busy = true;
    try {
      await work();
    } catch (error) {
      const reason = error instanceof TypeError ? "there is no connection" : String(/** @type {Error} */ (error).message);
      say(`Not saved: ${reason}. Nothing is lost; try again.`, true);
    } finally {
      busy = false;
    }
  }

  function showFront() {
    const agree = make("input", { type: "checkbox", id: "ws-agree" });
    const begin = make("button", { type: "button", class: "ws-main" }, "Begin");
    begin.addEventListener("click", () => {
      if (!agree.checked) {
        say("Please agree to take part first, or close this page.", true);
        agree.focus();
        return;
      }
      void attempt(async () => {
        let done = false;
        if (study.server) {
          const given = await post("begin", { consent: true, key, rater: progress.rater });
          questions = given.questions;
          progress = { ...progress, rater: given.rater, slot: given.slot, answers: given.answers };
          done = given.finished;
        } else if (!progress.rater) {
          progress.rater = randomName();
        }
        progress.began ||= new Date().toISOString();
        kept.write(progress);
        if (done) return showEnd();
        const open = questions.findIndex(({ id }) => !progress.answers[id]);
        showQuestion(open < 0 ? questions.length - 1 : open);
      });
    });
    const some = Object.keys(progress.answers).length;
    screen(
      make("h1", {}, study.title),
      make("div", { class: "ws-words" }, ...paragraphs(study.instructions)),
      make(
        "p",
        { class: "ws-soft" },
        `${study.count} questions, about ${Math.max(2, Math.ceil(study.count / 4))} minutes.` +
          (some ? ` You have answered ${some} and go on from there.` : ""),
      ),
      make(
        "section",
        { class: "ws-consent", "aria-label": "Consent" },
        make("h2", {}, "Before you begin"),
        ...paragraphs(study.consent),
        make("label", { class: "ws-check", for: "ws-agree" }, agree, "I have read this, and agree to take part."),
      ),
      begin,
    );
  }

  /** @param {number} at */
  function showQuestion(at) {
    const question = questions[at];
    progress.at = at;
    kept.write(progress);
    const before = progress.answers[question.id];
    const scale = make("div", { class: "ws-scale" });
    study.labels.forEach((label, index) => {
      const input = make("input", { type: "radio", name: "ws-answer", value: String(index + 1) });
      input.checked = before?.answer === index + 1;
      scale.append(make("label", {}, input, make("span", {}, label)));
    });
    const next = make("button", { type: "button", class: "ws-main" }, at + 1 < questions.length ? "Next" : "Finish");
    const back = make("button", { type: "button" }, "Back");
    back.hidden = at === 0;
    back.addEventListener("click", () => showQuestion(at - 1));
    next.addEventListener("click", () => void attempt(() => keep(at)));
    const bar = make("progress", { max: String(questions.length), value: String(at), "aria-label": "Progress" });
    screen(
      make("header", { class: "ws-header" }, make("h1", {}, study.title), make("p", { class: "ws-soft" }, `${at + 1} of ${questions.length}`), bar),
      ...(question.shared.length ? [make("div", { class: "ws-shared" }, make("p", {}, "What was looked for"), gallery(question.shared))] : []),
      make("div", { class: "ws-robots", "data-kind": study.kind }, robot("A", question.left), robot("B", question.right)),
      make("fieldset", { class: "ws-question" }, make("legend", {}, question.asks), scale),
      make("div", { class: "ws-buttons" }, back, next),
    );
    shown = performance.now();
  }

  /** Keeps the answer on the screen and goes on. @param {number} at */
  async function keep(at) {
    const question = questions[at];
    const chosen = root.querySelector("input[name=ws-answer]:checked");
    if (!(chosen instanceof HTMLInputElement)) {
      say("Please choose one of the five.", true);
      return;
    }
    const spent = (performance.now() - shown) / 1000 + (progress.answers[question.id]?.seconds ?? 0);
    const answer = { answer: Number(chosen.value), seconds: Math.round(spent * 10) / 10 };
    if (study.server) {
      say("Saving …");
      await post("answer", { rater: progress.rater, question: question.id, ...answer });
    }
    progress.answers[question.id] = answer;
    kept.write(progress);
    if (at + 1 < questions.length) {
      showQuestion(at + 1);
    } else {
      if (study.server) await post("finish", { rater: progress.rater });
      showEnd();
    }
  }

  function showEnd() {
    if (study.server) {
      screen(
        make("h1", {}, "Thank you"),
        make("p", {}, "All your answers are saved. You can close this page."),
      );
      return;
    }
    const save = make("button", { type: "button", class: "ws-main" }, "Save my answers");
    save.addEventListener("click", () => {
      const { rater, slot, began, answers } = progress;
      const finished = new Date().toISOString();
      const result = { format: 1, study: study.study, slot, rater, consent: true, began, finished, answers };
      const file = new Blob([JSON.stringify(result, null, 1)], { type: "application/json" });
      const link = make("a", { href: URL.createObjectURL(file), download: `answers-${study.study}-${slot + 1}.json` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
      say(`Saved as ${link.download}, where your browser puts downloads. Please send it to who asked you.`);
    });
    const back = make("button", { type: "button" }, "Back");
    back.addEventListener("click", () => showQuestion(questions.length - 1));
    screen(
      make("h1", {}, "Thank you"),
      make("p", {}, "One thing is left: save your answers as a file, and send it to who asked you."),
      make("div", { class: "ws-buttons" }, back, save),
    );
  }

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !/^[1-5]$/.test(event.key)) return;
    const choice = root.querySelector(`input[name=ws-answer][value="${event.key}"]`);
    if (!(choice instanceof HTMLInputElement)) return;
    choice.checked = true;
    choice.focus();
    event.preventDefault();
  });
  showFront();
}
