// Starts a long operation, and follows it by the url that the server has answered with.

const JSON_TYPE = "application/json";

async function send(url, options = {}) {
  const headers = { Accept: JSON_TYPE, ...options.headers };
  const response = await fetch(url, { credentials: "same-origin", ...options, headers });
  if (!response.ok) {
    throw new Error(`status ${response.status}`);
  }
  return response.json();
}

function start(form) {
  return send(form.dataset.url, {
    method: "POST",
    headers: { "Content-Type": JSON_TYPE, "X-CSRF-TOKEN": form.elements._authenticator.value },
    body: JSON.stringify({ tag: form.elements.tag.value }),
  });
}

function show(form, task) {
  const bar = form.querySelector("progress");
  if (task.progress && task.progress.total) {
    bar.max = task.progress.total;
    bar.value = task.progress.done;
  }
  const message = (task.progress && task.progress.message) || "";
  form.querySelector("[data-outcome]").textContent = `${task.state} ${message}`;
}

async function follow(form, url) {
  const task = await send(url);
  show(form, task);
  if (["succeeded", "failed", "cancelled"].includes(task.state)) {
    return task;
  }
  await new Promise((resume) => setTimeout(resume, 500));
  return follow(form, url);
}

async function run(form) {
  const [button, line] = [form.querySelector("button"), form.querySelector("[data-outcome]")];
  button.disabled = true;
  form.querySelector("progress").hidden = false;
  try {
    const accepted = await start(form);
    const task = await follow(form, accepted["@id"]);
    if (task.state === "succeeded") {
      const response = await send(task.response);
      line.textContent = response.body;
    } else {
      line.textContent = `${task.state}: ${task.reason}`;
    }
  } catch (error) {
    line.textContent = `The server does not answer (${error.message}).`;
  }
  button.disabled = false;
}

document.getElementById("demo-bulk").addEventListener("submit", (event) => {
  event.preventDefault();
  run(event.currentTarget);
});
