// AG-UI's own HttpAgent.
import { HttpAgent, buildResumeArray } from '@ag-ui/client';
import { obey, say, told } from './lines.mjs';

const agent = new HttpAgent({ url: told.url, threadId: told.thread });

async function run(parameters) {
  try {
    const result = await agent.runAgent(parameters, {
      onEvent: ({ event }) => say({ event }),
      onRunFinishedEvent: ({ outcome, pendingToolCallIds }) => say({ outcome, pendingToolCallIds: pendingToolCallIds ?? [] }),
    });
    say({ over: { messages: agent.messages, interrupts: agent.pendingInterrupts, made: result.newMessages } });
  } catch (error) {
    say({ error: String(error.message ?? error), over: { messages: agent.messages } });
  }
}

obey({
  run: ({ text, ...parameters }) => {
    if (text) agent.addMessage({ id: `u-${agent.messages.length}`, role: 'user', content: text });
    return run(parameters);
  },
  answer: ({ responses }) => run({ resume: buildResumeArray(agent.pendingInterrupts, responses) }),
  abort: () => agent.abortRun(),
});
