/** Environment variables, in every host: Node and Bun, Deno where reading them is permitted, and browsers without any. */

/** The value of an environment variable; undefined where it is not set, empty, or not for us to read. */
export function environment(name: string): string | undefined {
  const { Deno, process } = globalThis as {
    readonly Deno?: {
      readonly permissions: {
        querySync(query: { name: "env"; variable: string }): { readonly state: string };
      };
      readonly env: { get(name: string): string | undefined };
    };
    readonly process?: { readonly env: Readonly<Record<string, string | undefined>> };
  };
  if (Deno !== undefined) {
    const { state } = Deno.permissions.querySync({ name: "env", variable: name });
    return state === "granted" ? Deno.env.get(name) || undefined : undefined;
  }
  return process?.env[name] || undefined;
}
