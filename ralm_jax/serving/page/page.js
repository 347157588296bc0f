// The page of `ralm serve`. Texts become text nodes, never markup; nothing is asked of another server.

const one = (selector, within = document) => within.querySelector(selector);
const SHOWN = 10;
let runs = [];
let key = sessionStorage.getItem("key") ?? "";
let turn = 0; // of the newest question: what an older one brings is dropped

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function call(path, body) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  const options = body === undefined ? { headers } : {
    method: "POST", headers: { ...headers, "content-type": "application/json" }, body: JSON.stringify(body),
  };
  const response = await fetch(path, options).catch(() => { throw new Refused(0, "The server does not answer."); });
  const given = await response.json().catch(() => ({}));
  if (response.ok) return given;
  if (response.status === 401) askForKey();
  throw new Refused(response.status, given.error ?? `The server answers ${response.status}.`);
}

function askForKey() {
  one("#key").hidden = false;
  one("#key-text").focus();
}

function copy(template) {
  return one(template).content.firstElementChild.cloneNode(true);
}

function element(name, text, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

function show(node, text) {
  node.textContent = text;
  node.hidden = !text;
}

const share = (p) => (p >= 0.0995 ? p.toFixed(2) : p.toPrecision(2).replace(/\.?0+e/, "e"));
const heading = (passage) => passage.title || passage.documents[0] || passage.id;

// A row of a passage's measures; `part`, of 0 to 1, is as long as the bar.
function measure(list, name, className, part, figure) {
  const row = document.createElement("div");
  const bar = element("dd", "", `bar ${className}`);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  svg.setAttribute("aria-hidden", "true");
  rect.setAttribute("width", `${100 * Math.min(Math.max(part, 0), 1)}%`);
  rect.setAttribute("height", "100%");
  svg.append(rect);
  bar.append(svg);
  row.append(element("dt", name), bar, element("dd", figure));
  list.append(row);
}

function passageItem(run, passage, scale, answered) {
  const item = copy("#passage");
  item.dataset.id = passage.id;
  one("h4", item).textContent = `${passage.rank ? `${passage.rank}. ` : ""}${heading(passage)}`;
  one(".text", item).textContent = passage.text;
  const list = one(".measures", item);
  if (passage.probability !== undefined) {
    measure(list, "p(z|x)", "p", passage.probability, share(passage.probability));
    measure(list, "vectors gave", "dense", scale("dense", passage), passage.dense.toFixed(2));
    measure(list, "words gave", "lexical", scale("lexical", passage), passage.lexical.toFixed(2));
  } else {
    measure(list, "score", "p", passage.score, passage.score.toFixed(2));
  }
  if (passage.reader) {
    const { alone, answer_without: without } = passage.reader;
    measure(list, "answer with it", "with", answered, share(answered));
    measure(list, "answer without it", "without", without, share(without));
    show(one(".alone", item), alone ? `From this passage alone: ${alone.answer} (${share(alone.probability)})` : "");
  }
  one("details", item).addEventListener("toggle", (event) => neighbours(run, passage.id, event.target), { once: true });
  return item;
}

async function neighbours(run, id, details) {
  const list = one("ol", details);
  try {
    const found = await call("neighbours", { id, limit: 5, model: run.name });
    for (const passage of found.passages) {
      const item = document.createElement("li");
      item.append(element("strong", heading(passage)), ` (${passage.score.toFixed(2)}) `, passage.text);
      list.append(item);
    }
    if (!found.passages.length) list.append(element("li", "There are none."));
  } catch (error) {
    list.append(element("li", error.message));
  }
}

function showAnswer(column, found) {
  const { evidence } = found;
  if (!evidence) return note(column, "No passage was found to answer from.");
  one(".answer", column).hidden = false;
  one(".best strong", column).textContent = found.answer;
  one(".best .p", column).textContent = `p = ${share(found.probability)}`;
  one("figcaption", column).textContent = heading(evidence);
  // Offsets count characters of Python, which are code points.
  const points = Array.from(evidence.text);
  const part = (start, stop) => points.slice(start, stop).join("");
  one("blockquote", column).append(
    part(0, evidence.start), element("mark", part(evidence.start, evidence.stop)), part(evidence.stop),
  );
  const others = found.runners_up.map((other) => `${other.answer} (${share(other.probability)})`);
  show(one(".others", column), others.length ? `Or: ${others.join(", ")}` : "");
}

function note(column, text) {
  const place = one(".note", column);
  show(place, [place.textContent, text].filter(Boolean).join(" "));
}

function showPassages(column, run, found) {
  const list = one(".passages", column);
  // A softmax sees differences alone: bars begin at the least that is shown, those of both parts in one unit.
  const of = (part) => found.passages.map((passage) => passage[part]);
  const range = (part) => Math.max(...of(part)) - Math.min(...of(part));
  const unit = Math.max(range("dense"), range("lexical"), 1e-9);
  const scale = (part, passage) => (passage[part] - Math.min(...of(part))) / unit;
  list.append(...found.passages.map((passage) => passageItem(run, passage, scale, found.probability)));
  one(".legend", column).hidden = found.passages[0]?.dense === undefined;
  if (!list.children.length) note(column, "No passages were found.");
}

// Where each passage of a column stands in the other one.
function compare(columns) {
  for (const [column, other] of [columns, [...columns].reverse()]) {
    const ids = [...other.querySelectorAll(".passages > li")].map((item) => item.dataset.id);
    const name = one("h2", other).textContent;
    column.querySelectorAll(".passages > li").forEach((item, place) => {
      const rank = ids.indexOf(item.dataset.id);
      const arrow = rank < 0 ? "✶" : rank > place ? "↑" : rank < place ? "↓" : "=";
      const where = rank < 0 ? `not among the first ${ids.length}` : `place ${rank + 1}`;
      show(one(".elsewhere", item), ids.length ? `${arrow} ${where} in ${name}` : "");
    });
  }
}

async function fill(column, run, mode, text, offset = 0) {
  const model = run.name;
  let found;
  if (mode === "ask" && run.answers) {
    found = await call("ask", { question: text, model });
    showAnswer(column, found);
  } else {
    if (mode === "ask") note(column, "This run was not fine-tuned to answer; these are the passages it finds.");
    const page = { limit: mode === "ask" ? 5 : SHOWN, offset, model };
    found = mode === "passages" ? await call("passages", { text, ...page }) : await call("search", { query: text, ...page });
    const more = one(".more", column);
    more.hidden = mode === "ask" || offset + SHOWN >= found.total;
    more.onclick = () => fill(column, run, mode, text, offset + SHOWN).catch((error) => note(column, error.message));
  }
  if (found.cut && !offset) note(column, `The run reads ${run.query_length} wordpieces of a question: this one was cut.`);
  showPassages(column, run, found);
}

async function go(mode, text) {
  const mine = ++turn;
  const said = one("#said");
  said.textContent = "Asking…";
  const began = performance.now();
  const columns = runs.map((run) => {
    const column = copy("#column");
    one("h2", column).textContent = run.name;
    return column;
  });
  const done = await Promise.allSettled(runs.map((run, i) => fill(columns[i], run, mode, text)));
  if (mine !== turn) return;
  done.forEach((each, i) => each.status === "rejected" && note(columns[i], each.reason.message));
  if (columns.length === 2) compare(columns);
  one("#columns").replaceChildren(...columns);
  said.textContent = `${Math.round(performance.now() - began)} ms`;
}

// The text of a question stays behind the #, which no request carries.
function fromAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const text = given.get("q") ?? "";
  const mode = given.get("mode") ?? "ask";
  one("#text").value = text;
  const choice = [...document.querySelectorAll("[name=mode]")].find((input) => input.value === mode);
  if (choice) choice.checked = true;
  if (text && runs.length) go(choice ? mode : "ask", text);
}

async function begin() {
  const served = one("#served");
  try {
    ({ runs } = await call("runs"));
  } catch (error) {
    served.textContent = error.message;
    if (error.status === 503) setTimeout(begin, 1000);
    return;
  }
  one("#key").hidden = true;
  const about = runs.map((run) => `${run.name} (${run.stage}, ${run.passages.toLocaleString()} passages)`);
  served.textContent = about.join(" beside ");
  fromAddress();
}

one("#form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = one("#text").value.trim();
  const mode = one("[name=mode]:checked").value;
  if (!text) return;
  const address = `#${new URLSearchParams({ mode, q: text })}`;
  if (location.hash === address) go(mode, text);
  else location.hash = address;
});
one("#key").addEventListener("submit", (event) => {
  event.preventDefault();
  key = one("#key-text").value.trim();
  sessionStorage.setItem("key", key);
  begin();
});
addEventListener("hashchange", fromAddress);
begin();
