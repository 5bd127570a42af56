// Logging in with a token.

import * as api from "./api.js";
import { h, put } from "./dom.js";

export function loginView({ done }) {
  const token = h("input", { id: "token", type: "password", name: "token", autocomplete: "current-password", required: true, spellcheck: "false", "aria-describedby": "refused" });
  const refused = h("div", { id: "refused", role: "alert" });
  const button = h("button", { type: "submit", class: "main" }, "Log in");
  const form = h("form", { class: "login", method: "post", action: "v1/session" },
    h("h1", { tabindex: "-1" }, "Log in"),
    h("p", { class: "soft" }, "This coordinator needs a token. Ask its administrator for one."),
    h("label", { for: "token" }, h("span", {}, "Token"), token), refused, button);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      await api.logIn(token.value.trim());
      token.value = "";
      await done();
    } catch (problem) {
      put(refused, [problem.message, Date.now()], () => h("p", { class: "note failure" }, problem.message));
      token.focus();
      token.select();
    } finally {
      button.disabled = false;
    }
  });
  setTimeout(() => token.focus());
  return { title: "Log in", element: form };
}
