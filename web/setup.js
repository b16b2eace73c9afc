// The set-up page: sends the code of the link, which stands behind # and so is in no server's log, with name and password.

const form = /** @type {HTMLFormElement} */ (document.getElementById("setup"));
const result = /** @type {HTMLElement} */ (document.getElementById("result"));

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const fields = new FormData(form);
  result.textContent = "Making the admin…";
  try {
    const answer = await fetch("api/v1/setup", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ code: location.hash.slice(1), username: fields.get("username"), password: fields.get("password") }),
    });
    const body = await answer.json();
    result.textContent = answer.ok ? `${body.user} is the admin now. This link is used up.` : body.detail;
  } catch {
    result.textContent = "The appliance did not answer. Check the connection and try again.";
  }
});
