// What a program is told and says: lines of JSON. Whatever it does not expect ends it with its last words.
import { createInterface } from 'node:readline';

export const told = JSON.parse(process.argv[2]);

export function say(what) {
  process.stdout.write(JSON.stringify(what) + '\n');
}

function crash(error) {
  say({ crash: String(error?.stack ?? error) });
  process.exit(1);
}

// A client that warns was shown what it does not know.
console.warn = (...words) => crash(`a warning: ${words.join(' ')}`);
process.on('uncaughtException', crash);
process.on('unhandledRejection', crash);

// Does what it is told, one after the other where `does` returns a promise, until its input ends.
export function obey(does) {
  const lines = createInterface({ input: process.stdin });
  lines.on('line', line => {
    const { do: what, ...more } = JSON.parse(line);
    Promise.resolve(does[what](more)).catch(crash);
  });
  lines.on('close', () => process.exit(0));
}
