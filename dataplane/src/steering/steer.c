/*
 * The steering program: which packets leave the kernel for a worker.
 *
 * One decision, two programs around it. `xvs_steer` (XDP) redirects what is ours to the AF_XDP socket
 * of the interface and queue it came by; `xvs_shield` (tc ingress) drops the same packets where a raw
 * socket has already copied them, so that the host's stack does not answer them too.
 *
 * Rule: whatever is not named by the maps stays in the kernel. Whatever cannot be read (cut short,
 * an extension header not known here) is not ours either.
 *
 * Sources: RFC 791, RFC 8200 section 4, RFC 792, RFC 4443; Linux Documentation/networking/af_xdp.rst.
 */
#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Bounds, repeated in program.rs. */
#define MAX_INTERFACES 16
#define MAX_QUEUES 64

/* 802.1Q tags read in front of the IP header; a frame with more stays in the kernel. */
#define MAX_TAGS 2
/* IPv6 extension headers read; a packet with more stays in the kernel. */
#define MAX_EXTENSIONS 6

/* ICMP types (RFC 792); <linux/icmp.h> drags in the C library's headers. */
#define ICMP_DEST_UNREACH 3
#define ICMP_SOURCE_QUENCH 4
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12

/* Roles of addresses (bits) and of endpoints (one of them), as in tables.rs. */
#define VIP 1
#define REAL 2
#define LOCAL 4
#define TUNNEL 8
#define OWN 16

/* An address in network order, IPv4 as IPv4-mapped IPv6. */
struct address {
	__be32 words[4];
};

struct endpoint {
	struct address addr;
	__be16 port;
	__u8 protocol;
	__u8 role;
};

struct prefix {
	__u32 bits;
	struct address addr;
};

struct vlan_tag {
	__be16 tci;
	__be16 type;
};

/* Sizes of the next three are set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct endpoint);
	__type(value, __u8);
} endpoints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct address);
	__type(value, __u8);
} addrs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct prefix);
	__type(value, __u8);
} prefixes SEC(".maps");

/* Interface number -> slot: the interface's place in the configuration. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_INTERFACES);
	__type(key, __u32);
	__type(value, __u32);
} interfaces SEC(".maps");

/* Slot x MAX_QUEUES + receive queue -> AF_XDP socket. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, MAX_INTERFACES * MAX_QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

/* Order as in program.rs. */
enum counter { SEEN, REDIRECTED, PASSED, UNSERVED, SHIELDED, COUNTERS };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 which)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &which);

	if (counter)
		(*counter)++;
}

/* What a packet is, as far as the rules ask. `at` is the transport header. */
struct packet {
	struct address source, destination;
	void *at;
	__u8 protocol;
	bool fragment;
};

static __always_inline struct address mapped(__be32 addr)
{
	struct address out = { .words = { 0, 0, bpf_htonl(0xffff), addr } };

	return out;
}

static __always_inline struct address plain(const struct in6_addr *addr)
{
	struct address out = { .words = { addr->in6_u.u6_addr32[0], addr->in6_u.u6_addr32[1],
					  addr->in6_u.u6_addr32[2], addr->in6_u.u6_addr32[3] } };

	return out;
}

static __always_inline bool same(const struct address *a, const struct address *b)
{
	return a->words[0] == b->words[0] && a->words[1] == b->words[1] &&
	       a->words[2] == b->words[2] && a->words[3] == b->words[3];
}

static __always_inline __u8 roles(const struct address *addr)
{
	__u8 *found = bpf_map_lookup_elem(&addrs, addr);

	return found ? *found : 0;
}

static __always_inline bool in_prefix(const struct address *addr)
{
	struct prefix key = { .bits = 128, .addr = *addr };

	return bpf_map_lookup_elem(&prefixes, &key);
}

/* Whether the endpoint is known by its port, or by port 0 for all ports. */
static __always_inline bool known(const struct address *addr, __u8 protocol, __be16 port, __u8 role)
{
	struct endpoint key = { .addr = *addr, .port = port, .protocol = protocol, .role = role };

	if (bpf_map_lookup_elem(&endpoints, &key))
		return true;
	key.port = 0;
	return bpf_map_lookup_elem(&endpoints, &key);
}

static __always_inline bool has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

/* Reads an IPv4 header; false if there is none. */
static __always_inline bool read4(void *at, void *end, struct packet *packet)
{
	struct iphdr *ip = at;
	__u32 length;

	if ((void *)(ip + 1) > end || ip->version != 4)
		return false;
	length = ip->ihl * 4;
	if (length < sizeof(*ip))
		return false;
	packet->source = mapped(ip->saddr);
	packet->destination = mapped(ip->daddr);
	packet->protocol = ip->protocol;
	packet->fragment = ip->frag_off & bpf_htons(0x3fff);
	packet->at = at + length;
	return true;
}

/* Reads an IPv6 header and a bounded number of extension headers; false if that leads nowhere. */
static __always_inline bool read6(void *at, void *end, struct packet *packet)
{
	struct ipv6hdr *ip = at;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return false;
	packet->source = plain(&ip->saddr);
	packet->destination = plain(&ip->daddr);
	packet->protocol = ip->nexthdr;
	packet->fragment = false;
	at = ip + 1;
#pragma unroll
	for (int i = 0; i <= MAX_EXTENSIONS; i++) {
		__u8 *extension = at;

		if (packet->protocol == IPPROTO_FRAGMENT)
			packet->fragment = true;
		if (packet->fragment || (packet->protocol != IPPROTO_HOPOPTS &&
					 packet->protocol != IPPROTO_ROUTING &&
					 packet->protocol != IPPROTO_DSTOPTS)) {
			packet->at = at;
			return true;
		}
		if ((void *)(extension + 2) > end)
			return false;
		packet->protocol = extension[0];
		at += (extension[1] + 1) * 8;
	}
	return false;
}

/*
 * An ICMP error that is not for a VIP: about a packet of ours if it quotes one to a nat real
 * server, or one that `outer`'s receiver sent in a tunnel. `at` is the quoted IP header.
 */
static __always_inline bool quotes_ours(void *at, void *end, bool v6, const struct packet *outer,
					__u8 destination)
{
	struct packet quoted = {};
	__be16 *ports;
	__be16 port = 0;
	__u8 roles_there;

	if (!(v6 ? read6(at, end, &quoted) : read4(at, end, &quoted)))
		return false;
	roles_there = roles(&quoted.destination);
	if (!(roles_there & (REAL | TUNNEL)) || quoted.fragment)
		return false;
	if (has_ports(quoted.protocol)) {
		ports = quoted.at;
		if ((void *)(ports + 2) > end)
			return false;
		port = ports[1];
		if ((roles_there & REAL) && !(destination & OWN) &&
		    known(&quoted.destination, quoted.protocol, port, REAL))
			return true;
	}
	return (roles_there & TUNNEL) && same(&quoted.source, &outer->destination) &&
	       known(&quoted.destination, quoted.protocol, port, TUNNEL);
}

static __always_inline bool icmp_is_ours(void *end, bool v6, const struct packet *packet,
					 __u8 destination)
{
	__u8 *icmp = packet->at;
	bool echo, error;

	/* Type, code, checksum and four octets before the quoted packet, in both families. */
	if ((void *)(icmp + 8) > end)
		return false;
	if (v6) {
		echo = icmp[0] == ICMPV6_ECHO_REQUEST;
		error = icmp[0] >= ICMPV6_DEST_UNREACH && icmp[0] <= ICMPV6_PARAMPROB;
	} else {
		echo = icmp[0] == ICMP_ECHO;
		error = icmp[0] == ICMP_DEST_UNREACH || icmp[0] == ICMP_SOURCE_QUENCH ||
			icmp[0] == ICMP_TIME_EXCEEDED || icmp[0] == ICMP_PARAMETERPROB;
	}
	if (destination & VIP)
		return echo || error;
	if (!error)
		return false;
	return (destination & LOCAL) || quotes_ours(icmp + 8, end, v6, packet, destination);
}

static __always_inline bool packet_is_ours(void *end, bool v6, const struct packet *packet)
{
	__u8 destination = roles(&packet->destination);
	bool prefix = !(destination & VIP) && in_prefix(&packet->destination);
	bool from_real;
	__be16 *ports = packet->at;

	if (prefix)
		destination |= VIP;
	from_real = !(destination & OWN) && (roles(&packet->source) & REAL);
	if (packet->fragment)
		return (destination & (VIP | LOCAL)) || from_real;
	if (packet->protocol == (v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return icmp_is_ours(end, v6, packet, destination);
	if (!has_ports(packet->protocol) || (void *)(ports + 2) > end)
		return false;
	if (prefix || (destination & LOCAL))
		return true;
	if ((destination & VIP) && known(&packet->destination, packet->protocol, ports[1], VIP))
		return true;
	return from_real && known(&packet->source, packet->protocol, ports[0], REAL);
}

/* The decision. A frame to a group or to everyone is never ours: no flow begins with one. */
static __always_inline bool ours(void *data, void *end)
{
	struct ethhdr *ethernet = data;
	struct packet packet = {};
	void *at = ethernet + 1;
	__be16 type;

	if (at > end || (ethernet->h_dest[0] & 1))
		return false;
	type = ethernet->h_proto;
#pragma unroll
	for (int i = 0; i < MAX_TAGS; i++) {
		struct vlan_tag *tag = at;

		if (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD))
			break;
		if ((void *)(tag + 1) > end)
			return false;
		type = tag->type;
		at = tag + 1;
	}
	if (type == bpf_htons(ETH_P_IP))
		return read4(at, end, &packet) && packet_is_ours(end, false, &packet);
	if (type == bpf_htons(ETH_P_IPV6))
		return read6(at, end, &packet) && packet_is_ours(end, true, &packet);
	return false;
}

SEC("xdp")
int xvs_steer(struct xdp_md *ctx)
{
	__u32 interface = ctx->ingress_ifindex;
	__u32 *slot;
	int action;

	count(SEEN);
	if (!ours((void *)(long)ctx->data, (void *)(long)ctx->data_end)) {
		count(PASSED);
		return XDP_PASS;
	}
	slot = bpf_map_lookup_elem(&interfaces, &interface);
	if (!slot || *slot >= MAX_INTERFACES || ctx->rx_queue_index >= MAX_QUEUES) {
		count(UNSERVED);
		return XDP_PASS;
	}
	/* The last argument is what becomes of the packet where no socket is registered. */
	action = bpf_redirect_map(&sockets, *slot * MAX_QUEUES + ctx->rx_queue_index, XDP_PASS);
	count(action == XDP_REDIRECT ? REDIRECTED : UNSERVED);
	return action;
}

/* Octets that must lie in one piece to be read: tags, an IPv6 chain, an error and its quote. */
#define LINEAR 256

SEC("classifier")
int xvs_shield(struct __sk_buff *skb)
{
	__u32 linear = skb->len < LINEAR ? skb->len : LINEAR;

	bpf_skb_pull_data(skb, linear);
	if (!ours((void *)(long)skb->data, (void *)(long)skb->data_end))
		return TC_ACT_UNSPEC;
	count(SHIELDED);
	return TC_ACT_SHOT;
}

/* Uses no helper that is reserved to programs under the GPL. */
char _license[] SEC("license") = "Apache-2.0 OR MIT";
