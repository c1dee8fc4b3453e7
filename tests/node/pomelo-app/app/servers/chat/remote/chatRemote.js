'use strict';
// What other servers may call: user.chatRemote.*
module.exports = (app) => ({
  add: (a, b, cb) => cb(null, a + b),
  whoami: (cb) => cb(null, app.getServerId(), app.getServerType()),
  fail: (cb) => cb(new Error('chat is full')),
  silence: () => {},
  echo: (value, cb) => cb(null, value),
});
