// Reads the stream again and again where it ends, for one login at a time: whatever comes of a former one is not heard.

const LONGEST_PAUSE_S = 15;

export class Following {
  /**
   * @param {(signal: AbortSignal, each: (told: any) => void) => Promise<void>} read Reads the stream once, until it ends.
   * @param {Object} heard What is done with what comes of it.
   * @param {(told: any) => void} heard.told With each message.
   * @param {(error: any) => void} heard.away The stream has ended, and is read again; by an error, or undefined.
   * @param {(error: any) => void} heard.refused The key is refused: the stream is not read again.
   * @param {(ms: number) => Promise<void>} pause Waits.
   */
  constructor(read, heard, pause = (ms) => new Promise((done) => setTimeout(done, ms))) {
    this.read = read;
    this.heard = heard;
    this.pause = pause;
    this.stop = null;
  }

  /** Read from now on, and no more by what was begun before. */
  async begin() {
    this.end();
    const stop = (this.stop = new AbortController());
    const { signal } = stop;
    let pauseS = 1;
    while (!signal.aborted) {
      try {
        await this.read(signal, (told) => {
          if (signal.aborted) return;
          pauseS = 1;
          this.heard.told(told);
        });
        if (!signal.aborted) this.heard.away();
      } catch (error) {
        if (signal.aborted) return;
        if ([400, 401, 403].includes(error.status)) {
          this.end();
          this.heard.refused(error);
          return;
        }
        pauseS = Math.min(LONGEST_PAUSE_S, error.retryAfterS || pauseS * 1.5);
        this.heard.away(error);
      }
      await this.pause(pauseS * 1000);
    }
  }

  /** Read no more, whether it is read now or waits to be read again. */
  end() {
    this.stop?.abort();
    this.stop = null;
  }
}
