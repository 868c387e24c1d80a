// One question at a time, and always the newest: while an answer is awaited, of the questions that come only the last is kept.

export class Latest {
  #asking = false;
  #next = null;

  /** `ask(question)` gives a promise; `done(answer)` and `failed(error)` are told. */
  constructor(ask, done, failed) {
    this.ask = ask;
    this.done = done;
    this.failed = failed;
  }

  async put(question) {
    if (this.#asking) {
      this.#next = { question };
      return;
    }
    this.#asking = true;
    try {
      this.done(await this.ask(question), question);
    } catch (error) {
      this.failed(error);
    } finally {
      this.#asking = false;
    }
    if (this.#next) {
      const { question: newer } = this.#next;
      this.#next = null;
      await this.put(newer);
    }
  }
}
