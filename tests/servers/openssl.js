/** Keys and certificates as operators make them: by the command openssl, in a temporary folder that is removed. */

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A certificate's validity that includes today, and two that do not, as `openssl ca` writes times. */
export const current = { from: "20200101000000Z", until: "20991231235959Z" };
export const expired = { from: "20200101000000Z", until: "20210101000000Z" };
export const future = { from: "20980101000000Z", until: "20991231235959Z" };

/** `openssl ca` and not `openssl x509`, which learnt only in version 3.4 to take both ends of a validity. */
const authorityConfiguration = `
[ca]
default_ca = own
[own]
database = index.txt
new_certs_dir = .
default_md = sha256
rand_serial = yes
policy = any
[any]
commonName = supplied
[req]
distinguished_name = name
[name]
`;

/**
 * A private key, PKCS #8 in PEM.
 *
 * @param {"RSA" | "RSA-PSS" | "EC"} algorithm
 * @param {string} [size] bits, or the name of a curve
 */
export function newKey(algorithm, size = algorithm === "EC" ? "P-256" : "2048") {
  const option = algorithm === "EC" ? `ec_paramgen_curve:${size}` : `rsa_keygen_bits:${size}`;
  return openssl(["genpkey", "-algorithm", algorithm, "-pkeyopt", option]);
}

/** The key below a passphrase. */
export function encrypted(key) {
  return openssl(["pkcs8", "-topk8", "-passout", "pass:passphrase"], key);
}

/** The key as it was written before PKCS #8: `RSA PRIVATE KEY` (PKCS #1) or `EC PRIVATE KEY` (SEC 1). */
export function traditional(key) {
  return openssl(["pkey", "-traditional"], key);
}

/** The key's public half. */
export function publicHalf(key) {
  return openssl(["pkey", "-pubout"], key);
}

/**
 * A certificate in PEM.
 *
 * @param {object} options
 * @param {string} options.key the subject's
 * @param {string} [options.name] its common name
 * @param {{ key: string, certificate: string }} [options.authority] who signs; the subject itself where absent
 * @param {string} [options.extensions] lines of an extension section
 * @param {{ from: string, until: string }} [options.validity]
 */
export function newCertificate({ key, name = "gateway", authority, extensions = "basicConstraints = CA:false", validity = current }) {
  const folder = mkdtempSync(join(tmpdir(), "obo-edge-"));
  const run = (...args) => openssl(args, undefined, folder);
  try {
    const files = { "ca.cnf": authorityConfiguration, "index.txt": "", "extensions.cnf": extensions, "key.pem": key };
    if (authority) Object.assign(files, { "authority.key": authority.key, "authority.pem": authority.certificate });
    for (const [file, content] of Object.entries(files)) writeFileSync(join(folder, file), content);
    run("req", "-new", "-config", "ca.cnf", "-key", "key.pem", "-subj", `/CN=${name}`, "-out", "request.pem");
    const signer = authority ? ["-keyfile", "authority.key", "-cert", "authority.pem"] : ["-selfsign", "-keyfile", "key.pem"];
    const dates = ["-startdate", validity.from, "-enddate", validity.until];
    run("ca", "-batch", "-notext", "-config", "ca.cnf", "-extfile", "extensions.cnf", ...dates, ...signer, "-in", "request.pem", "-out", "certificate.pem");
    return readFileSync(join(folder, "certificate.pem"), "utf8");
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function openssl(args, input = "", cwd = undefined) {
  return execFileSync("openssl", args, { input, cwd, encoding: "utf8", stdio: ["pipe", "pipe", "pipe"] });
}
