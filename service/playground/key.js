// The API key, where the server asks for one: kept for this tab alone, sent with every call, shown nowhere.

const NAME = "quartet-key";

export function key() {
  return sessionStorage.getItem(NAME) ?? "";
}

export function setKey(value) {
  if (value) sessionStorage.setItem(NAME, value);
  else sessionStorage.removeItem(NAME);
}
