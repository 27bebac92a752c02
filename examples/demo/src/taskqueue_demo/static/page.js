// Fills the table of the page once a second: what runs, what ended last, what waits.

const STATES = ["running", "queued", "scheduled", "failed", "cancelled", "succeeded"];

const COLOURS = {
  running: "text-bg-primary",
  failed: "text-bg-danger",
  cancelled: "text-bg-warning",
  succeeded: "text-bg-success",
};

function cell(row, ...content) {
  row.insertCell().append(...content);
}

function badge(state) {
  const element = document.createElement("span");
  element.className = `badge ${COLOURS[state] || "text-bg-secondary"}`;
  element.textContent = state;
  return element;
}

function label(task) {
  const element = document.createElement("span");
  element.title = task.id;
  element.textContent = task.description || task.id;
  return element;
}

function rank(task) {
  if (task.state === "running") {
    return 0;
  }
  return ["queued", "scheduled"].includes(task.state) ? 2 : 1;
}

function render(body, tasks) {
  body.replaceChildren();
  const sorted = tasks.reverse().sort((one, other) => rank(one) - rank(other));
  for (const task of sorted.slice(0, Number(body.dataset.rows))) {
    const row = body.insertRow();
    cell(row, label(task));
    cell(row, badge(task.state));
    cell(row, String(task.attempts));
    cell(row, task.elapsed === null ? "" : task.elapsed.toFixed(3));
    cell(row, task.outcome);
  }
}

function count(line, counts) {
  const parts = STATES.filter((state) => counts[state]).map((state) => `${counts[state]} ${state}`);
  line.textContent = parts.join(", ") || "None yet.";
}

async function refresh(body, line) {
  try {
    const response = await fetch(body.dataset.url, { credentials: "same-origin" });
    if (!response.ok) {
      throw new Error(`status ${response.status}`);
    }
    const { counts, tasks } = await response.json();
    count(line, counts);
    render(body, tasks);
  } catch (error) {
    line.textContent = `The server does not answer (${error.message}).`;
  }
  setTimeout(refresh, 1000, body, line);
}

refresh(document.getElementById("demo-tasks"), document.getElementById("demo-counts"));
