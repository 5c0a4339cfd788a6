// Pushes policies to an Isthmus control plane and waits until every proxy that they concern has them.
//
//     isthmus login
//     npm install && npm run build
//     ISTHMUS_PROTOS=../../../../proto/proto node push_policy.js policies.yaml

import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

type Fields = { [name: string]: string };

interface Problem {
  source: string;
  line: number;
  column: number;
  field: string;
  reason: string;
}

interface Applied {
  revision: string;
  problems: Problem[];
  warnings: string[];
}

interface InForce {
  affected: number;
  acknowledged: number;
  complete: boolean;
  elapsedUs: string;
  pending: { workload: string; state: string }[];
}

/** operator.yaml and session.yaml: `name: value`, or `name: |` and indented lines. */
function readOperator(path: string): Fields {
  const fields: Fields = {};
  let name = "";
  for (const line of readFileSync(path, "utf8").split("\n")) {
    if (line.startsWith("  ") && name) {
      fields[name] += line.slice(2) + "\n";
    } else if (line.includes(":")) {
      const at = line.indexOf(":");
      name = line.slice(0, at).trim();
      const value = line.slice(at + 1).trim();
      fields[name] = value === "|" ? "" : value.replace(/^"|"$/g, "");
    }
  }
  return fields;
}

function connect(operator: Fields): grpc.Client {
  const control = `URI:spiffe://${operator.trustDomain}/ns/isthmus-system/sa/control`;
  const credentials = grpc.credentials.createSsl(
    Buffer.from(operator.roots),
    Buffer.from(operator.key),
    Buffer.from(operator.certificate),
    {
      // Who it is says its SPIFFE id; at which address it was found says nothing.
      checkServerIdentity: (_host, certificate) => {
        const names = (certificate.subjectaltname ?? "").split(", ");
        return names.includes(control) ? undefined : new Error("this is not the control plane");
      },
    },
  );
  const protos = process.env.ISTHMUS_PROTOS ?? "proto/proto";
  const definition = loadSync("isthmus/admin/v1/admin.proto", { includeDirs: [protos], longs: String, defaults: true });
  // Typed by hand above: a generator such as ts-proto does it from the same files.
  const loaded = grpc.loadPackageDefinition(definition) as any;
  return new loaded.isthmus.admin.v1.Admin(operator.address, credentials);
}

/** All of the files or none of them. */
function push(admin: any, files: string[]): Promise<Applied> {
  const documents = files.map((source) => ({ source, yaml: readFileSync(source, "utf8") }));
  const deadline = Date.now() + 30_000;
  return new Promise((done, failed) => {
    const answer = (error: grpc.ServiceError | null, applied: Applied) => (error ? failed(error) : done(applied));
    admin.Apply({ documents }, { deadline }, answer);
  });
}

/** Until every connected proxy that the revision concerns has acknowledged or refused it. */
function wait(admin: any, revision: string, seconds: number): Promise<boolean> {
  return new Promise((done, failed) => {
    const stream = admin.WaitInForce({ revision }, { deadline: Date.now() + seconds * 1000 });
    stream.on("data", (progress: InForce) => {
      const { acknowledged, affected, elapsedUs } = progress;
      const took = Math.round(Number(elapsedUs) / 1000);
      console.log(`revision ${revision}: ${acknowledged} of ${affected} proxies have it (${took} ms)`);
      if (progress.complete) {
        progress.pending.forEach((pending) => console.error(`  ${pending.workload}: ${pending.state}`));
        done(acknowledged === affected);
      }
    });
    stream.on("error", failed);
    stream.on("end", () => done(false));
  });
}

async function main(): Promise<number> {
  const files = process.argv.slice(2);
  if (files.length === 0) {
    console.error("usage: push_policy.js POLICY.yaml...");
    return 2;
  }
  const usual = join(homedir(), ".config/isthmus/session.yaml");
  const admin = connect(readOperator(process.env.ISTHMUS_OPERATOR ?? usual));
  try {
    const { revision, problems, warnings } = await push(admin, files);
    problems.forEach((p) => console.error(`${p.source}:${p.line}:${p.column}: ${p.field}: ${p.reason}`));
    warnings.forEach((warning) => console.error(`warning: ${warning}`));
    if (problems.length > 0) {
      return 1;
    }
    return (await wait(admin, revision, 60)) ? 0 : 1;
  } catch (error) {
    const { code, details } = error as grpc.ServiceError;
    console.error(`error: ${details ?? error}`);
    return code === grpc.status.DEADLINE_EXCEEDED ? 3 : 1;
  } finally {
    admin.close();
  }
}

main().then((status) => process.exit(status));
