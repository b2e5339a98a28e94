// Does in this folder what `npm ci --omit=dev --ignore-scripts` does with a lock that names no addresses, by the parts of
// the npm beside this Node; but npm unpacks one package after the other, and here tar does it, many at once.
// With the usual addresses filled in no metadata are needed (330 requests and 100 MB less); where a registry has others,
// this fails. The digests decide either way.
'use strict';
const { execFile } = require('child_process');
const fs = require('fs');
const { promisify } = require('util');

const AT_ONCE = 10; // npm has 15; more of them hold more memory, and take no less time
const TAR = ['-xzm', '--strip-components=1', '--no-same-owner', '--no-same-permissions', '--warning=no-unknown-keyword'];
const npm = fs.realpathSync(`${process.execPath}/../../lib/node_modules/npm`);
const part = (name) => require(`${npm}/node_modules/${name}`);

const { checkEngine, checkPlatform } = part('npm-install-checks');
const fits = (entry) => {
  try {
    checkEngine(entry, undefined, process.version, false);
    checkPlatform(entry, false);
    return true;
  } catch {
    return false;
  }
};

async function options() {
  const Config = part('@npmcli/config');
  const config = new Config({ ...part('@npmcli/config/lib/definitions'), npmPath: npm, argv: [], cwd: process.cwd() });
  await config.load();
  // A cache would only be written.
  const { cache, ...others } = config.flat;
  return others;
}

async function unpack(place, { name = place.split('node_modules/').pop(), version, integrity }, { registry, ...others }) {
  if (!integrity) throw new Error(`the lock has no digest of ${place}`);
  const url = `${registry.replace(/\/$/, '')}/${name}/-/${name.split('/').pop()}-${version}.tgz`;
  const archive = await part('pacote').tarball(url, { ...others, integrity });
  fs.mkdirSync(place, { recursive: true });
  const done = promisify(execFile)('tar', [...TAR, '-C', place]);
  done.child.stdin.on('error', () => {}).end(archive); // what tar did not read it says itself
  await done;
}

async function link(place, { version }) {
  const found = JSON.parse(fs.readFileSync(`${place}/package.json`, 'utf8'));
  if (found.version !== version) throw new Error(`${place} is of version ${found.version}, not ${version}`);
  await part('bin-links')({ path: fs.realpathSync(place), pkg: part('npm-normalize-package-bin')(found), force: true });
}

async function main() {
  // What is optional is left out where it does not fit.
  const { packages } = JSON.parse(fs.readFileSync('package-lock.json', 'utf8'));
  const wanted = Object.entries(packages).filter(
    ([place, entry]) => place && !entry.dev && !(entry.optional && !fits(entry)),
  );
  const queue = wanted.filter(([, { inBundle }]) => !inBundle); // the others come inside of these
  const how = await options();
  const worker = async () => {
    for (let next; (next = queue.shift()); ) await unpack(...next, how);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  for (const entry of wanted) await link(...entry);
}

main().catch((error) => {
  console.error(`${error.code ?? 'packages.js'}: ${error.message}`);
  process.exit(1); // at once: what else is on its way would only be thrown away
});
