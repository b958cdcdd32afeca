"use strict";
/* The list of questions: search, filters, sort, pages. Without this script the first page of it stands there as it is,
   written out in examples.html.j2; a question looks the same from both. Texts go in as text, never as markup. */

const data = JSON.parse(document.getElementById("examples-data").textContent);
const form = document.getElementById("examples-form");
const list = document.getElementById("examples-list");
const found = document.getElementById("examples-found");
const signs = document.getElementById("examples-signs").content;
const pagers = [...document.querySelectorAll("#examples .pager")];
const MARKS = { right: "✓", wrong: "✗", unreadable: "?" };
let page = 0;

function element(tag, kind, ...children) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  made.append(...children.filter((child) => child !== ""));
  return made;
}

function count(number) {
  return number.toLocaleString("en");
}

/* ---- what is asked for ---- */

function resultOf(answer, question) {
  if (answer[0] === null) return "unreadable";
  return answer[0] === question.gold ? "right" : "wrong";
}

function resultsOf(question) {
  return (question.answers || []).map((answer) => resultOf(answer, question));
}

function words(question) {
  if (!question.words) {
    const answers = (question.answers || []).map((answer) => answer[2]);
    const rationale = question.rationale ? question.rationale[2] : "";
    question.words = [question.question, ...question.options, rationale, ...answers].join("\n").toLowerCase();
  }
  return question.words;
}

function bought(question) {
  if (!question.rationale) return "none";
  return question.rationale[3] ? "kept" : "rejected";
}

function fits(question, asked) {
  for (const name of ["split", "subject", "level", "band"]) {
    const wanted = asked.get(name);
    if (wanted !== null && wanted !== "any" && wanted !== `=${question[name]}`) return false;
  }
  if (asked.get("own") !== "any" && asked.get("own") !== question.own_result) return false;
  if (asked.get("rationale") !== "any" && asked.get("rationale") !== bought(question)) return false;
  const results = resultsOf(question);
  for (let arm = 0; arm < data.arms.length; arm += 1) {
    const wanted = asked.get(`arm-${arm}`);
    if (wanted !== "any" && wanted !== results[arm]) return false;
  }
  if (asked.get("disagree") && new Set(results.map((result) => result === "right")).size < 2) return false;
  return words(question).includes(asked.get("text").trim().toLowerCase());
}

const SORTS = {
  mixed: null,
  unsure: (a, b) => b.score - a.score,
  sure: (a, b) => a.score - b.score,
  wrong: (a, b) => share(b) - share(a),
  row: (a, b) => a.row - b.row,
};

function share(question) {
  const results = resultsOf(question);
  return results.length ? results.filter((result) => result !== "right").length : -1;
}

function chosen() {
  const asked = new FormData(form);
  const some = data.examples.filter((question) => fits(question, asked));
  const order = SORTS[asked.get("sort")];
  return order ? some.sort(order) : some;
}

/* ---- what is shown ---- */

function result(kind) {
  return element("span", `result ${kind}`, `${MARKS[kind]} ${kind}`);
}

function facts(question) {
  const told = [`row ${count(question.row)}`, question.split, question.subject];
  if (question.level !== null) told.push(`level ${question.level}`);
  if (question.band) told.push(`${question.band} band`);
  told.push(`score ${question.score.toFixed(3)}`);
  return element("h3", "facts", told.filter((part) => part).join(" · "));
}

function option(text, place, question) {
  const letter = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[place];
  const item = element("li", letter === question.gold ? "gold" : "", element("b", "", letter), " ", text);
  if (letter === question.gold) item.append(" ", element("span", "tag", "right answer"));
  if (letter === question.own) item.append(" ", element("span", "tag", "untouched student"));
  return item;
}

function folded(title, text) {
  return element("details", "", element("summary", "", title), element("pre", "", text));
}

function armName(place) {
  const name = element("span", "arm", data.arms[place].name);
  name.prepend(signs.children[place].cloneNode(true));
  return name;
}

function answer(one, place, question) {
  const item = element("li", "", armName(place), " ", result(resultOf(one, question)));
  if (one[0] !== null) item.append(" ", element("span", "", `said ${one[0]}`));
  const seeds = data.arms[place].seeds;
  if (seeds > 1) item.append(" ", element("span", "small", `right in ${one[1]} of ${seeds} seeds`));
  if (one[2]) item.append(" ", folded("what it wrote", one[2]));
  return item;
}

function gave(what, place) {
  return element("li", "", armName(place), " ", element("span", "", what));
}

function card(question) {
  const made = element("article", "card", facts(question), element("p", "question", question.question));
  made.append(element("ol", "options", ...question.options.map((text, place) => option(text, place, question))));
  made.append(element("p", "own", "The untouched student, when it was scored: ", result(question.own_result)));
  if (!question.answers) made.append(element("p", "own", "What the arms gave it:"));
  const rows = question.answers
    ? question.answers.map((one, place) => answer(one, place, question))
    : question.gave.map(gave);
  made.append(element("ul", question.answers ? "answers" : "answers gave", ...rows));
  if (question.rationale) {
    const [verdict, states, text, kept] = question.rationale;
    const said = `${states ? `, says ${states}` : ""}${kept ? "" : ", not kept"}`;
    made.append(folded(`The teacher’s rationale: ${verdict}${said}`, text || "(no reply came)"));
  }
  return made;
}

function show() {
  const some = chosen();
  const pages = Math.max(1, Math.ceil(some.length / data.onAPage));
  page = Math.min(page, pages - 1);
  const first = page * data.onAPage;
  const here = some.slice(first, first + data.onAPage);
  list.replaceChildren(...here.map(card));
  found.textContent = some.length
    ? `Questions ${count(first + 1)} to ${count(first + here.length)} of ${count(some.length)} that fit`
    : "No question fits. Change or clear what is asked for.";
  for (const pager of pagers) {
    pager.hidden = pages === 1;
    pager.querySelector(".place").textContent = `page ${count(page + 1)} of ${count(pages)}`;
    pager.querySelector(".previous").setAttribute("aria-disabled", page === 0);
    pager.querySelector(".next").setAttribute("aria-disabled", page === pages - 1);
  }
}

function turn(event) {
  const button = event.target.closest("button");
  if (!button || button.getAttribute("aria-disabled") === "true") return;
  page += button.classList.contains("next") ? 1 : -1;
  show();
  if (event.currentTarget === pagers[1]) list.focus();
}

form.addEventListener("input", () => { page = 0; show(); });
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => { page = 0; setTimeout(show); });
for (const pager of pagers) pager.addEventListener("click", turn);
form.hidden = false;
show();
