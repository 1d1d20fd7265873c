// The service Chat by grpc-js, with the contract as it is, and no code made of it.
import { join } from 'node:path';
import * as grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { obey, say, told } from './lines.mjs';

const contract = loadSync('southwest/ai/agent/v1/chat.proto', {
  includeDirs: [join(told.root, 'proto')],
  // The names of the contract; numbers of 64 bits as texts, as JavaScript has none.
  keepCase: true,
  longs: String,
  enums: String,
  oneofs: true,
  arrays: true,
});
const { Chat } = grpc.loadPackageDefinition(contract).southwest.ai.agent.v1;
const client = new Chat(told.address, grpc.credentials.createInsecure());

function watch(name, call) {
  call.on('data', ({ events, receipts, goaways }) => say({ [name]: { events, receipts, goaways } }));
  call.on('error', ({ code, details }) => say({ status: { of: name, code: grpc.status[code], details } }));
  call.on('end', () => say({ ended: name }));
  return call;
}

let converse;
let subscribed;
obey({
  open: () => {
    converse = watch('converse', client.Converse());
  },
  send: ({ packet }) => converse.write(packet),
  halfClose: () => converse.end(),
  subscribe: ({ request }) => {
    subscribed = watch('subscribe', client.Subscribe(request));
  },
  cancel: () => subscribed.cancel(),
  agents: () =>
    client.ListAgents({}, (error, answer) => say(error ? { status: { code: grpc.status[error.code] } } : { agents: answer.agents })),
});
