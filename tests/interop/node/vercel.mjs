// A chat of Vercel's AI SDK: what `useChat` is made of, without a page.
import { AbstractChat, DefaultChatTransport, readUIMessageStream } from 'ai';
import { obey, say, told } from './lines.mjs';

class State {
  status = 'ready';
  error = undefined;
  messages = [];
  pushMessage = message => this.#changed([...this.messages, message]);
  popMessage = () => this.#changed(this.messages.slice(0, -1));
  replaceMessage = (index, message) => this.#changed(this.messages.with(index, this.snapshot(message)));
  snapshot = thing => structuredClone(thing);
  #changed(messages) {
    this.messages = messages;
    say({ messages });
  }
}

class Chat extends AbstractChat {
  constructor(init) {
    super({ ...init, state: new State() });
  }
}

const transport = new DefaultChatTransport({ api: `${told.url}/api/chat`, body: told.body });
let chat;

function begin() {
  chat = new Chat({
    id: told.chat,
    transport,
    onFinish: ({ message, isAbort, isDisconnect, isError, finishReason }) =>
      say({ finish: { isAbort, isDisconnect, isError, finishReason, message } }),
    onError: error => say({ error: error.message }),
    onData: part => say({ data: part }),
    onToolCall: ({ toolCall }) => say({ toolCall }),
  });
}

begin();
obey({
  send: message => chat.sendMessage(message),
  stop: () => chat.stop(),
  // As a page that is loaded anew: nothing is known but the chat's id.
  reload: async () => {
    begin();
    await chat.resumeStream();
    say({ resumed: chat.messages });
  },
  resume: async () => {
    await chat.resumeStream();
    say({ resumed: chat.messages });
  },
  // The stream alone, by the SDK's own reader.
  read: async ({ text }) => {
    const message = { id: 'u-1', role: 'user', parts: [{ type: 'text', text }] };
    const stream = await transport.sendMessages({ chatId: told.chat, messages: [message], trigger: 'submit-message' });
    let last;
    for await (const each of readUIMessageStream({ stream, terminateOnError: true })) last = each;
    say({ read: last });
  },
});
