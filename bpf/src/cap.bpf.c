/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Capabilities: the hook is called for those that the task has, in whichever user namespace.
 */

#define CAP_OPT_NOAUDIT 2u

SEC("lsm/capable")
int BPF_PROG(capable, const struct cred *cred, struct user_namespace *ns, int cap, unsigned int opts, int ret)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct plain_request r = {.class_ = CLASS_CAPABILITY, .op = OP_CAPABLE};
	struct subject *s;

	if (ret)
		return ret;
	/* credentials of somebody else: a file's opener, another task's; its own use of them is judged then */
	if (cred != task->cred)
		return 0;
	s = confined_by(CLASS_CAPABILITY);
	if (!s)
		return 0;
	r.number = cap;
	r.condition = terminal_condition(task);
	/* the kernel wants to know without anything being done; a denial is not worth an event */
	if (opts & CAP_OPT_NOAUDIT)
		r.flags = PLAIN_SILENT;
	return judge_plain(s, &r) ? -EPERM : 0;
}
